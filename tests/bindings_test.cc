// The modules of examples/pybind11 and examples/nanobind, imported by plain
// python3, whose native threads still call Python when the script ends.
#include <Python.h>
//
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/child.h"
#include "tests/support/subinterpreter_script.h"

namespace {

using testing::HasSubstr;
using testing::Not;

class BindingsTest : public testing::TestWithParam<const char*> {
 protected:
  // Runs a script that knows the module as m.
  static ChildResult RunScript(const std::string& script) {
    std::string whole =
        std::string("import ") + GetParam() + " as m\n" + script;
    return RunProgram([&] {
      setenv("PYTHONPATH", "examples/pybind11:examples/nanobind", 1);
      const char* python = getenv("PYTHON_BIN_PATH");
      if (python == nullptr) python = "python3";
      execlp(python, python, "-c", whole.c_str(), static_cast<char*>(nullptr));
    });
  }

  static std::string EightRefused() {
    return std::string(GetParam()) + ": 8 threads, 8 refused, 0 failed, ";
  }
};

INSTANTIATE_TEST_SUITE_P(Modules, BindingsTest,
                         testing::Values("with_pybind11", "with_nanobind"),
                         [](const auto& info) { return info.param; });

TEST_P(BindingsTest, ThreadsAreRefusedWhenTheScriptEnds) {
  for (int i = 0; i < 5; ++i) {
    ChildResult result = RunScript(R"(
m.start(lambda x: x + 1, 8)
m.await_calls(100)
)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr(EightRefused() + "some calls"));
    result = RunScript("m.start(lambda x: x + 1, 8)");  // and at once
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr(EightRefused()));
  }
}

TEST_P(BindingsTest, PythonRunsWhileNativeThreadsCall) {
  ChildResult result = RunScript(R"(
m.start(lambda x: x + 1, 8)
for i in range(20): assert m.call(lambda x: 2 * x, i) == 2 * i
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr(EightRefused() + "some calls"));
}

// A daemon thread stands in a guarded function when the script ends: it comes
// back when the callers were refused, and Python's end waits for that.
TEST_P(BindingsTest, DaemonThreadComesBackFromAGuardedFunction) {
  ChildResult result = RunScript(R"(
import threading
m.start(lambda x: x + 1, 8)
daemon = threading.Thread(target=m.await_calls, args=(1 << 60,), daemon=True)
daemon.start()
m.await_calls(100)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr(EightRefused() + "some calls"));
}

TEST_P(BindingsTest, FunctionThatIsKeptIsRefusedAfterTheEnd) {
  ChildResult result = RunScript("m.keep(lambda x: x)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("kept: PYHOLD_EFINALIZING"));
}

TEST_P(BindingsTest, ExceptionsCrossThreadsAndKeepTypeAndTraceback) {
  ChildResult result = RunScript(R"(
import traceback
class MyError(Exception): pass
raised = []
def fails(x):
    raised.append(MyError(x))
    raise raised[-1]
for function in (m.call, m.tell):
    try:
        function(fails, 7 if function is m.call else 'seven')
    except MyError as e:
        assert e is raised[-1]
        assert 'fails' in [f.name for f in traceback.extract_tb(e.__traceback__)]
        print('the same')
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("the same\nthe same\n"));
}

TEST_P(BindingsTest, ResultsOfTheWrongTypeAreErrors) {
  ChildResult result = RunScript(R"(
for answer in 'text', None, 1 << 100:
    try:
        m.call(lambda x: answer, 1)
    except TypeError as e:
        print(e)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("a callback returned 'text'\n"
                                       "a callback returned None\n"
                                       "a callback returned 12676506"));
}

TEST_P(BindingsTest, FailuresAreReturnedWhereThereIsAStatus) {
  ChildResult result = RunScript(R"(
def check(x):
    if x < 0: raise ValueError('negative')
    return 'fine' if x else None
for x in 1, -1, 0: print(m.ask(check, x))
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output,
              HasSubstr("fine\n"
                        "failed: ValueError: negative\n"
                        "failed: TypeError: a callback returned None\n"));
}

TEST_P(BindingsTest, ArgumentsThatCannotBeCalledAreRejected) {
  ChildResult result = RunScript(R"(
try:
    m.start(3, 8)
except TypeError as e:
    print('rejected', 'collections.abc.Callable[[' in str(e))
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("rejected True"));
}

TEST_P(BindingsTest, CallablesAreGivenBack) {
  ChildResult result = RunScript(R"(
import weakref
class Callable:
    def __call__(self, x): return x + 1
callables = [Callable() for i in range(100)]
alive = [weakref.ref(c) for c in callables]
for c in callables: assert m.call(c, 1) == 2
del callables, c
import time
for i in range(3000):  # what was deferred is given back soon
    if not any(a() for a in alive): break
    time.sleep(0.01)
print(sum(a() is not None for a in alive), 'left')
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("0 left"));
  EXPECT_THAT(result.output, Not(HasSubstr("leaked")));
}

// --- In several interpreters ---

// Native work that reports to Python in between: in place of gil_scoped_acquire
// inside gil_scoped_release.
TEST_P(BindingsTest, ComputesDetachedAndReports) {
  ChildResult result = RunScript(R"(
import sys, threading
for compute in m.compute, m.compute_on_new_thread:
    reports = []
    def report(step): reports.append((step, threading.get_ident()))
    assert compute(100, report) == 5050
    assert [step for step, thread in reports] == list(range(1, 101))
    here = threading.get_ident()
    assert {thread == here for step, thread in reports} == {compute is m.compute}
    # Python runs meanwhile, also where it is in the function already.
    assert compute(3, lambda step: compute(step, report)) == 6
    failures = []
    sys.unraisablehook = lambda u: failures.append(u.exc_value.args)
    def fail(step): raise ValueError(step)
    assert compute(2, fail) == 3
    assert failures == [(1,), (2,)], failures
print('computed')
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("computed\n"));
}

// From 3.12 on interpreters may have GILs of their own, and pybind11 supports
// several.
#if PY_VERSION_HEX >= 0x030C0000

// stay_here(): the callables run in the interpreter that they belong to.
constexpr char kStayHere[] = R"(
here_code += '''
def stay_here(m):
    seen = []
    def report(step): seen.append((step, here()))
    assert m.compute(3, report) == 6
    assert m.compute_on_new_thread(3, report) == 6
    assert seen == 2 * [(step, here()) for step in (1, 2, 3)], (seen, here())
'''
exec(here_code)
stay_here(m)  # the main interpreter imports it first
for i in range(3):
    in_subinterpreter('''
import MODULE as m
stay_here(m)
print('stayed in', here(), flush=True)
'''.replace('MODULE', m.__name__), config)
    stay_here(m)
)";

class SubinterpreterTest : public BindingsTest {
 protected:
  static ChildResult RunScript(const std::string& config,
                               const std::string& script) {
    return BindingsTest::RunScript(kInSubinterpreter + ("config = '" + config) +
                                   "'\n" + script);
  }
};

INSTANTIATE_TEST_SUITE_P(Modules, SubinterpreterTest,
                         testing::Values("with_pybind11"),
                         [](const auto& info) { return info.param; });

TEST_P(SubinterpreterTest, ReportsStayInTheInterpreterThatCalled) {
  for (const char* config : {"isolated", "legacy"}) {
    ChildResult result = RunScript(config, kStayHere);
    EXPECT_EQ(result, Clean()) << config;
    EXPECT_THAT(result.output,
                HasSubstr("stayed in 1\nstayed in 2\nstayed in 3\n"));
  }
}

TEST_P(SubinterpreterTest, CallbacksStayInTheInterpreterThatGaveThem) {
  ChildResult result = RunScript("isolated", R"(
in_subinterpreter('''
import MODULE as m
for i in range(20): assert m.call(lambda x: 10 * here() + x, i) == 10 * here() + i
print('stayed in', here(), flush=True)
'''.replace('MODULE', m.__name__), config)
assert m.call(lambda x: here() + x, 7) == 7
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("stayed in 1\n"));
}

// nanobind's own rule. In an interpreter that shares the main one's GIL it may be
// imported.
class NanobindTest : public SubinterpreterTest {};

INSTANTIATE_TEST_SUITE_P(Modules, NanobindTest,
                         testing::Values("with_nanobind"),
                         [](const auto& info) { return info.param; });

TEST_P(NanobindTest, InterpreterWithItsOwnGilIsRejectedByNanobind) {
  ChildResult result = RunScript("isolated", R"(
in_subinterpreter('''
try:
    import with_nanobind
except ImportError:
    print('rejected', flush=True)
''', config)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("rejected\n"));
}

TEST_P(NanobindTest, ReportsStayInTheInterpreterThatCalled) {
  ChildResult result = RunScript("legacy", kStayHere);
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output,
              HasSubstr("stayed in 1\nstayed in 2\nstayed in 3\n"));
}

#endif

}  // namespace
