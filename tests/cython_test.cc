// The module of examples/cython, translated through C and through C++, imported
// by plain python3.
#include <Python.h>
//
#include <signal.h>
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

ChildResult RunPython(const std::string& script) {
  return RunProgram(
      [&] {
        setenv("PYTHONPATH", "examples/cython", 1);
        const char* python = getenv("PYTHON_BIN_PATH");
        if (python == nullptr) python = "python3";
        execlp(python, python, "-c", script.c_str(),
               static_cast<char*>(nullptr));
      },
      /*limit_s=*/30);
}

class CythonTest : public testing::TestWithParam<const char*> {
 protected:
  // Runs a script that knows the module as m. `before` runs before the import:
  // what it registers with atexit is called after pyhold's gate has closed.
  static ChildResult RunScript(const std::string& script,
                               const std::string& before = "") {
    return RunPython(before + "\nimport " + GetParam() + " as m\n" + script);
  }
};

INSTANTIATE_TEST_SUITE_P(Modules, CythonTest,
                         testing::Values("with_cython", "with_cython_cplus"),
                         [](const auto& info) { return info.param; });

// --- The three cases ---

// The state is kept, and each call starts fresh, as with PyGILState_Ensure.
TEST_P(CythonTest, ThreadThatNeverHadAStateStartsEachCallFresh) {
  for (const char* ask : {"True", "False"}) {
    ChildResult result = RunScript(std::string("ask = ") + ask + R"(
import threading
local, counted, threads = threading.local(), [], set()
def callback(x):
    local.count = getattr(local, 'count', 0) + 1
    counted.append(local.count)
    threads.add(threading.get_ident())
    return x + 1
for again in range(2):  # each on a new thread
    assert m.on_new_thread(callback, 100, ask=ask) == 101
assert counted == 200 * [1], counted
assert threading.get_ident() not in threads
assert not hasattr(local, 'count')
print('fresh')
)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr("fresh\n"));
  }
}

TEST_P(CythonTest, ThreadThatHoldsTheGilKeepsIt) {
  for (const char* ask : {"True", "False"}) {
    ChildResult result = RunScript(std::string("ask = ") + ask + R"(
import threading
def run():
    local = threading.local()
    local.mine = 7
    for i in range(100):
        assert m.holding_it(lambda x: x + local.mine, i, ask=ask) \
            == (i + 7, 0, True)
    # and from within
    def deeper(x):
        return x and m.holding_it(deeper, x - 1, ask=ask)[0] + local.mine
    assert m.holding_it(deeper, 10, ask=ask)[0] == 70
run()
thread = threading.Thread(target=run)
thread.start()
thread.join()
assert m.on_new_thread(lambda x: run() or x, 3, ask=ask) == 3
print('nested')
)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr("nested\n"));
    EXPECT_THAT(result.output, Not(HasSubstr("Error")));
  }
}

TEST_P(CythonTest, ThreadThatLetGoGetsItsStateBackAndLetsGoAgain) {
  for (const char* ask : {"True", "False"}) {
    ChildResult result = RunScript(std::string("ask = ") + ask + R"(
import threading
def run():
    local = threading.local()
    local.mine = 7
    for i in range(100):
        assert m.having_let_go(lambda x: x + local.mine, i, ask=ask) \
            == (i + 7, 0, [False, True, False])
    def deeper(x):
        return x and m.having_let_go(deeper, x - 1, ask=ask)[0] + local.mine
    assert m.having_let_go(deeper, 10, ask=ask)[0] == 70
run()
thread = threading.Thread(target=run)
thread.start()
thread.join()
assert m.on_new_thread(lambda x: run() or x, 3, ask=ask) == 3
print('back')
)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr("back\n"));
    EXPECT_THAT(result.output, Not(HasSubstr("Error")));
  }
}

// --- What a callback raises ---

TEST_P(CythonTest, ExceptionsAreReportedAndDoNotStay) {
  for (const char* ask : {"True", "False"}) {
    ChildResult result = RunScript(std::string("ask = ") + ask + R"(
import sys
seen = []
sys.unraisablehook = lambda u: seen.append((type(u.exc_value), u.exc_value.args))
def callback(x):
    if x % 2: raise ValueError(x)
    return x + 1
assert m.on_new_thread(callback, 6, ask=ask) == 7
assert m.holding_it(callback, 7, ask=ask) == (0, 0, True)
assert m.having_let_go(callback, 9, ask=ask) == (0, 0, [False, True, False])
assert seen == [(ValueError, (x,)) for x in (1, 3, 5, 7, 9)], seen
print('reported')
)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr("reported\n"));
  }
  // A thread whose callback failed gives up; nothing keeps Python then.
  ChildResult result = RunScript(
      "m.start(lambda x: x / 0, 8)\n"
      "m.await_calls(1)\n");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("ZeroDivisionError"));
  EXPECT_THAT(result.output,
              HasSubstr("8 threads, 0 refused, 8 failed, no calls"));
}

// --- The end of Python ---

TEST_P(CythonTest, ThreadsThatAskAreRefusedWhenTheScriptEnds) {
  for (int i = 0; i < 20; ++i) {
    ChildResult result = RunScript(R"(
m.start(lambda x: x + 1, 8)
m.await_calls(100)
)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output,
                HasSubstr("8 threads, 8 refused, 0 failed, some calls"));
  }
  ChildResult result = RunScript("m.start(lambda x: x + 1, 8)");  // and at once
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("8 threads, 8 refused, 0 failed, "));
}

// The callback lets go and comes back while Python ends.
TEST_P(CythonTest, ThreadsInsideOfACallComeBackToIt) {
  for (int i = 0; i < 5; ++i) {
    ChildResult result = RunScript(R"(
m.start(lambda x: m.having_let_go(lambda x: x + 1, x, ask=False)[0], 8)
m.await_calls(100)
)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output,
                HasSubstr("8 threads, 8 refused, 0 failed, some calls"));
  }
}

// Read after the gate has closed, and so after a thread has called in vain: as
// long as none was refused, Python's end waits for the line here.
constexpr char kReadStderrAfterTheGate[] = R"(
import os, sys
reader, writer = os.pipe()
os.dup2(writer, 2)
class Late:
    def __del__(self, read=os.read, write=os.write, reader=reader):
        write(1, b'after the gate: ' + read(reader, 999))
sys.late = Late()
)";

TEST_P(CythonTest, ThreadsThatDoNotAskAreStoppedAndTheProcessEnds) {
  for (int i = 0; i < 5; ++i) {
    ChildResult result = RunScript(R"(
m.start(lambda x: x + 1, 8, ask=False)
m.await_calls(100)
)",
                                   kReadStderrAfterTheGate);
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr("after the gate: pyhold: refused a "
                                         "`with gil`, since Python finalizes"));
  }
}

// atexit callbacks, and then destructors, on the thread that finalizes.
TEST_P(CythonTest, ThreadThatFinalizesIsNeverStopped) {
  ChildResult result = RunScript(R"(
class Late:
    how = m.holding_it, m.having_let_go  # m forgets its names before
    def __del__(self, say=say): say('destructor', *self.how)
m.late = Late()
)",
                                 R"(
import atexit, os
def say(where, holding_it, having_let_go, write=os.write):
    def callback(x):
        write(1, b'%s called %d\n' % (where.encode(), x))
        return x + 1
    assert holding_it(callback, 1, ask=False) == (2, 0, True)
    assert having_let_go(callback, 2, ask=False) == (3, 0, [False, True, False])
    assert holding_it(callback, 3) == (4, 0, True)  # asks, and is granted
atexit.register(lambda: say('atexit', m.holding_it, m.having_let_go))
)");
  EXPECT_EQ(result, Clean());
  for (std::string where : {"atexit", "destructor"}) {
    EXPECT_THAT(result.output,
                HasSubstr(where + " called 1\n" + where + " called 2\n" +
                          where + " called 3\n"));
  }
}

// A daemon thread that is in the module when the gate has closed: attached, it
// goes on as CPython's daemons do.
TEST_P(CythonTest, AttachedDaemonThreadGoesOnAfterTheGate) {
  ChildResult result = RunScript(R"(
def daemon():
    closed.acquire()
    assert m.holding_it(lambda x: x + 1, 1, ask=False) == (2, 0, True)
    os.write(1, b'went on\n')
    done.release()
threading.Thread(target=daemon, daemon=True).start()
)",
                                 R"(
import atexit, os, threading
closed, done = threading.Lock(), threading.Lock()
closed.acquire()
done.acquire()
atexit.register(lambda: (closed.release(), done.acquire()))
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("went on\n"));
}

TEST_P(CythonTest, AfterTheEndThereIsAnAnswerOrTheProcessEnds) {
  ChildResult result = RunScript("m.call_at_exit(lambda x: x)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("at exit: -1\n"));  // EFINALIZING

  // Stopping the thread that ends the process would hang it.
  result = RunScript("m.call_at_exit(lambda x: x, ask=False)");
  EXPECT_EQ(result.signal, SIGABRT) << result.output;
  EXPECT_THAT(result.output,
              HasSubstr("pyhold: refused a `with gil`: PYHOLD_EFINALIZING"));
  EXPECT_THAT(result.output, Not(HasSubstr("at exit")));
}

// --- In several interpreters ---

// Cython's own rule.
TEST_P(CythonTest, SecondInterpreterIsRejectedByCython) {
  ChildResult result = RunScript(std::string(kInSubinterpreter) + R"(
in_subinterpreter('''
try:
    import NAME
except ImportError:
    print('rejected', flush=True)
'''.replace('NAME', m.__name__))
assert m.on_new_thread(lambda x: x + 1, 3) == 4
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("rejected\n"));
}

// From 3.12 on interpreters may have GILs of their own, and PyGILState tells which
// one a thread came from.
#if PY_VERSION_HEX >= 0x030C0000

// stay_here(): `with gil` inside `with nogil`, nested too, and a native thread that
// is told where to go. All callbacks run in the interpreter that they belong to.
constexpr char kStayHere[] = R"(
here_code += '''
import with_cython_own_gil as m
def stay_here():
    seen = []
    def callback(x):
        seen.append(here())
        return x + 1
    def deeper(x):
        seen.append(here())
        return x and m.having_let_go(deeper, x - 1, ask=False)[0] + 1
    for ask in True, False:
        assert m.having_let_go(callback, 1, ask=ask)[:2] == (2, 0)
        assert m.holding_it(callback, 1, ask=ask) == (2, 0, True)
        assert m.having_let_go(deeper, 3, ask=ask)[0] == 3
    assert m.on_new_thread_here(callback, 3) == 4
    assert seen == 15 * [here()], (seen, here())
'''
)";

class CythonOwnGilTest : public testing::Test {
 protected:
  // In the script, and in what it runs in subinterpreters, m is the module.
  static ChildResult RunScript(const std::string& script) {
    return RunPython(std::string(kInSubinterpreter) + kStayHere + script);
  }
};

TEST_F(CythonOwnGilTest, WithGilMeansTheInterpreterThatTheThreadCameFrom) {
  ChildResult result = RunScript(R"(
exec(here_code)  # the main interpreter imports it first
stay_here()
for i in range(3):
    in_subinterpreter('''
stay_here()
print('stayed in', here(), flush=True)
''')
    stay_here()
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output,
              HasSubstr("stayed in 1\nstayed in 2\nstayed in 3\n"));
}

TEST_F(CythonOwnGilTest, NativeThreadGoesToTheInterpreterThatImportedFirst) {
  ChildResult result = RunScript(R"(
exec(here_code)
check = '''
assert m.where_new_threads_go() == 0
assert m.on_new_thread_here(lambda x: 10 * here() + x, 3) == 10 * here() + 3
print('went from', here(), flush=True)
'''
in_subinterpreter(check)
exec(check)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("went from 1\nwent from 0\n"));
}

// The first one has ended: the next that imports the module takes its place.
TEST_F(CythonOwnGilTest, InterpretersMayEndBeforeTheMainOneImports) {
  ChildResult result = RunScript(R"(
for i in range(2):
    in_subinterpreter('''
assert m.where_new_threads_go() == here()
stay_here()
''')
exec(here_code)
assert m.where_new_threads_go() == 0
stay_here()
print('stayed', flush=True)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("stayed\n"));
}

// Each thread's own interpreter, at the same time.
TEST_F(CythonOwnGilTest, InterpretersCallAtTheSameTime) {
  ChildResult result = RunScript(R"(
exec(here_code)
import threading
threads = [threading.Thread(target=in_subinterpreter,
                            args=('for i in range(50): stay_here()',))
           for i in range(4)]
for thread in threads: thread.start()
for i in range(50): stay_here()
for thread in threads: thread.join()
print('stayed', flush=True)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("stayed\n"));
  EXPECT_THAT(result.output, Not(HasSubstr("Error")));
}

// Destructors that run while an interpreter ends: they stay in it.
TEST_F(CythonOwnGilTest, DestructorsStayInTheInterpreterThatEnds) {
  ChildResult result = RunScript(R"(
exec(here_code)
in_subinterpreter('''
class Late:
    how = m.having_let_go, m.holding_it
    def __del__(self, home=here(), get=__import__('_interpreters').get_current,
                write=__import__('os').write):
        seen = []
        def callback(x):
            seen.append(get()[0])
            return x + 1
        for how in self.how: how(callback, 1, ask=False)
        if seen == 2 * [home]: write(1, b'destroyed\\n')
m.late = Late()
''')
stay_here()
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("destroyed\n"));
}

#endif

}  // namespace
