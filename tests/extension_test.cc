// An extension module imported by plain python3, whose native threads still
// call Python when the script ends: see extension/probe.cc.
#define PY_SSIZE_T_CLEAN
#include <Python.h>  // for the version only

#include <unistd.h>

#include <cstdlib>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/child.h"

namespace {

using testing::HasSubstr;

ChildResult RunScript(const std::string& script) {
  return RunProgram([&] {
    setenv("PYTHONPATH", "tests/extension", 1);
    const char* python = getenv("PYTHON_BIN_PATH");
    if (python == nullptr) python = "python3";
    execlp(python, python, "-c", script.c_str(), static_cast<char*>(nullptr));
  });
}

const char kEightRefused[] = ": 8 threads, 8 refused, 0 failed, some calls";

TEST(ExtensionTest, ThreadsAreRefusedWhenTheScriptEnds) {
  ChildResult result = RunScript(R"(
import probe_one
probe_one.start(lambda: sum(range(10)), 8)
probe_one.await_calls(100)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output,
              HasSubstr(std::string("probe_one") + kEightRefused));
}

TEST(ExtensionTest, EndsAtOnceToo) {
  for (int i = 0; i < 20; ++i) {
    ChildResult result =
        RunScript("import probe_one; probe_one.start(lambda: None, 8)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr("8 threads, 8 refused, 0 failed"));
  }
}

TEST(ExtensionTest, ExitStatusOfTheScriptIsKept) {
  ChildResult result = RunScript(R"(
import probe_one, sys
probe_one.start(lambda: None, 8)
probe_one.await_calls(100)
sys.exit(3)
)");
  EXPECT_EQ(result.exit_code, 3) << result;
  EXPECT_THAT(result.output, HasSubstr(kEightRefused));
  result = RunScript(R"(
import probe_one
probe_one.start(lambda: None, 8)
probe_one.await_calls(100)
raise KeyError
)");
  EXPECT_EQ(result.exit_code, 1) << result;
  EXPECT_THAT(result.output, HasSubstr(kEightRefused));
}

// All callbacks run while the threads still work, also those registered before
// the import; modules are torn down when the threads have been refused.
TEST(ExtensionTest, AtexitCallbacksRunBeforeTheGateCloses) {
  ChildResult result = RunScript(R"(
import atexit, os, sys
calls = [0]
def before():
    probe_one.await_calls(50)
    print('called by older ones')
atexit.register(before)
class Late:
    def __del__(self, calls=calls, write=os.write):
        seen = calls[0]
        for i in range(1000000): pass  # time for other threads, if there were any
        write(1, b'frozen %r\n' % (calls[0] == seen))
sys.late = Late()
import probe_one
def after():
    probe_one.await_calls(50)
    print('still called')
atexit.register(after)
def callback():
    calls[0] += 1
probe_one.start(callback, 1)
probe_one.await_calls(100)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("still called"));
  EXPECT_THAT(result.output, HasSubstr("called by older ones"));
  EXPECT_THAT(result.output, HasSubstr("frozen True"));
}

TEST(ExtensionTest, TwoCopiesOfPyholdWorkBesideEachOther) {
  ChildResult result = RunScript(R"(
import probe_one, probe_two
probe_one.start(lambda: sum(range(10)), 8)
probe_two.start(lambda: sum(range(10)), 8)
probe_one.await_calls(100)
probe_two.await_calls(100)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output,
              HasSubstr(std::string("probe_one") + kEightRefused));
  EXPECT_THAT(result.output,
              HasSubstr(std::string("probe_two") + kEightRefused));
}

// A thread inside a guard of one copy, which that copy's gate waits for, calls into
// a module whose copy has closed already.
TEST(ExtensionTest, CopyThatClosedFirstLetsInWhatAnotherHolds) {
  for (const char* order : {"import probe_one as a, probe_two as b",
                            "import probe_two as a, probe_one as b"}) {
    ChildResult result = RunScript(std::string(order) + R"(
import os
inside = []
def callback(write=os.write):
    inside.append(1)
    # Whichever of the two closes first: the other waits for this call.
    while a.is_open() and b.is_open(): pass
    called = []
    granted = a.nest(lambda: called.append(1)), b.nest(lambda: called.append(1))
    write(1, b'granted %d %d, called %d\n' % (granted + (len(called),)))
b.start(callback, 1)
while not inside: pass
)");
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr("granted 2 2, called 4")) << order;
  }
}

// Threads that know both copies, and are in none of their guards when both have
// closed: what a copy has let go of does not hold the interpreter for the other.
TEST(ExtensionTest, ThreadInsideNeitherCopyIsRefusedByBoth) {
  for (const char* order : {"import probe_one as a, probe_two as b",
                            "import probe_two as a, probe_one as b"}) {
    ChildResult result = RunScript(std::string(order) + R"(
a.start(lambda: b.nest(lambda: sum(range(10))), 4)
b.start(lambda: a.nest(lambda: sum(range(10))), 4)
a.await_calls(100)
b.await_calls(100)
)");
    EXPECT_EQ(result, Clean()) << order;
    for (const char* module : {"probe_one", "probe_two"})
      EXPECT_THAT(result.output, HasSubstr(std::string(module) +
                                           ": 4 threads, 4 refused, 0 failed"));
  }
}

TEST(ExtensionTest, PythonThreadsAndNativeThreadsTogether) {
  ChildResult result = RunScript(R"(
import probe_one, threading
probe_one.start(lambda: sum(range(10)), 4)
def python_thread():
    probe_one.await_calls(100)
daemon = threading.Thread(target=lambda: [sum(range(10)) for i in iter(int, 1)],
                          daemon=True)
daemon.start()
threads = [threading.Thread(target=python_thread) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("4 threads, 4 refused, 0 failed"));
}

#if PY_VERSION_HEX >= 0x030D0000
// Imported in a subinterpreter with its own GIL only.
TEST(ExtensionTest, ImportedInASubinterpreter) {
  ChildResult result = RunScript(R"(
import _interpreters
sub = _interpreters.create('isolated')
error = _interpreters.run_string(sub, '''
import probe_one, sys
assert probe_one.interpreter_id() != 0
probe_one.start(lambda: sum(range(10)), 4)
probe_one.await_calls(100)
''')
assert error is None, error
_interpreters.destroy(sub)
print('destroyed')
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("destroyed"));
  EXPECT_THAT(result.output, HasSubstr("4 threads, 4 refused, 0 failed"));
}
#endif

// PEP 788's API: threads that know only the main interpreter, in a module that
// made no view of it. Its import makes it known, wherever it happens.
TEST(ExtensionTest, ThreadsThatAskForTheMainInterpreterFindIt) {
  ChildResult result = RunScript(R"(
import main_only
print(main_only.call(5))
)");
  EXPECT_EQ(result, Clean());
  EXPECT_EQ(result.output, "5\n");
  result = RunScript(R"(
def work():
    import main_only
    global module
    module = main_only
import threading
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(module.call(5))
)");
  EXPECT_EQ(result, Clean());
  EXPECT_EQ(result.output, "5\n");
#if PY_VERSION_HEX >= 0x030D0000
  // The library is loaded once, for the first interpreter that wants it.
  result = RunScript(R"(
import _interpreters
sub = _interpreters.create('isolated')
def run(code):
    error = _interpreters.run_string(sub, code)
    assert error is None, error
run('import main_only')
import main_only
print(main_only.call(5))
run('assert main_only.call(5) == 5')
_interpreters.destroy(sub)
)");
  EXPECT_EQ(result, Clean());
  EXPECT_EQ(result.output, "5\n");
#endif
}

// A library that contains pyhold is loaded and let go of at once, as searches for
// plugins do. What its import asked for comes afterwards.
TEST(ExtensionTest, LibraryStaysLoaded) {
  ChildResult result = RunScript(R"(
import _ctypes
_ctypes.dlclose(_ctypes.dlopen('tests/extension/main_only.so', 1))
for i in range(1000): sum(range(10))
print('alive')
)");
  EXPECT_EQ(result, Clean());
  EXPECT_EQ(result.output, "alive\n");
}

}  // namespace
