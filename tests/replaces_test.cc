// Who changes one line, from PyGILState_Ensure to a guard or from
// Py_BEGIN_ALLOW_THREADS to a detach guard, loses nothing at the end of the process.
// Each scenario runs both ways; where the old way is right, so is the new one.
#include "tests/support/python.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/absl_status.h"
#include "pyhold/pyhold.h"
#include "pyhold/safe_call.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;
using testing::HasSubstr;

constexpr int kLimitS = 30;

// --- The two ways ---

bool with_pyhold;
const InterpreterView* view;

class Attach {
 public:
  Attach() {
    if (with_pyhold)
      new (guard_) ThreadStateGuard(*view);
    else
      state_ = PyGILState_Ensure();
  }
  ~Attach() {
    if (with_pyhold)
      guard().~ThreadStateGuard();
    else
      PyGILState_Release(state_);
  }
  explicit operator bool() { return !with_pyhold || guard(); }

 private:
  ThreadStateGuard& guard() {
    return *reinterpret_cast<ThreadStateGuard*>(guard_);
  }
  alignas(ThreadStateGuard) char guard_[sizeof(ThreadStateGuard)];
  PyGILState_STATE state_;
};

template <typename F>
void Detached(F f) {
  if (with_pyhold) {
    ThreadStateDetachGuard detached;
    f();
  } else {
    Py_BEGIN_ALLOW_THREADS
    f();
    Py_END_ALLOW_THREADS
  }
}

// --- The module of the scripts ---

// Attaches and calls f(). Returns whether it was called.
bool AttachAndCall(PyObject* f) {
  Attach attach;
  if (!attach) return false;
  PyObject* result = PyObject_CallNoArgs(f);
  if (result == nullptr) PyErr_Print();
  Py_XDECREF(result);
  return true;
}

// call(f): calls f() on a native thread, and waits for that.
PyObject* Call(PyObject*, PyObject* f) {
  Detached([&] { std::thread([&] { AttachAndCall(f); }).join(); });
  Py_RETURN_NONE;
}

// begin(f): a native thread calls f() once, for every post().
std::atomic<int> posted{0}, delivered{0};
PyObject* Begin(PyObject*, PyObject* f) {
  Py_INCREF(f);
  std::thread([f] {
    for (;;) {
      while (posted == delivered)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (!AttachAndCall(f)) return;
      ++delivered;
    }
  }).detach();
  Py_RETURN_NONE;
}
// flush(n): posts n messages, and waits until they arrive, or for 3 s.
PyObject* Flush(PyObject*, PyObject* n) {
  posted += static_cast<int>(PyLong_AsLong(n));
  Detached([] {
    for (int i = 0; i < 3000 && posted != delivered; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  Py_RETURN_NONE;
}

// block(): in a system call, for good.
PyObject* Block(PyObject*, PyObject*) {
  int fds[2];
  if (pipe(fds) != 0) return PyErr_SetFromErrno(PyExc_OSError);
  char c;
  Detached([&] { (void)!read(fds[0], &c, 1); });
  if (PyErr_CheckSignals() != 0) return nullptr;
  Py_RETURN_NONE;
}

// nap(ms): the same, for a while.
PyObject* Nap(PyObject*, PyObject* ms) {
  const long time = PyLong_AsLong(ms);
  Detached(
      [&] { std::this_thread::sleep_for(std::chrono::milliseconds(time)); });
  Py_RETURN_NONE;
}

// interrupt(): SIGINT to the main thread, soon.
PyObject* Interrupt(PyObject*, PyObject*) {
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    kill(getpid(), SIGINT);
  }).detach();
  Py_RETURN_NONE;
}

// set_file(f), write(): what a C++ object with a Python file does when it is
// flushed late.
PyObject* file;
PyObject* SetFile(PyObject*, PyObject* f) {
  file = Py_NewRef(f);
  Py_RETURN_NONE;
}
bool WriteToFile(const char* text) {
  PyObject* result = PyObject_CallMethod(file, "write", "y", text);
  if (result == nullptr) PyErr_Print();
  Py_XDECREF(result);
  return result != nullptr;
}
void WriteLate(bool others_are_refused) {
  if (!with_pyhold) {
    PyGILState_STATE state = PyGILState_Ensure();
    WriteToFile("late");
    PyGILState_Release(state);
    return;
  }
  if (others_are_refused)
    std::thread([] {
      REQUIRE(ThreadStateGuard(*view).status() == PYHOLD_EFINALIZING);
    }).join();
  absl::Status status = pyhold::SafeCallIntoPython<absl::Status>(
      *view, [] { REQUIRE(WriteToFile("late")); });
  ThreadStateDetachGuard detached;
  if (!status.ok()) fprintf(stderr, "%s\n", status.ToString().c_str());
}
PyObject* Write(PyObject*, PyObject* others_are_refused) {
  WriteLate(others_are_refused == Py_True);
  Py_RETURN_NONE;
}

// capsule(): one that writes when it is deleted; in_dict(): puts one into the
// interpreter's dict.
PyObject* Capsule(PyObject*, PyObject*) {
  return PyCapsule_New(&file, nullptr, [](PyObject*) { WriteLate(true); });
}
PyObject* InDict(PyObject*, PyObject*) {
  PyObject* capsule = Capsule(nullptr, nullptr);
  PyDict_SetItemString(PyInterpreterState_GetDict(PyInterpreterState_Get()),
                       "late", capsule);
  Py_DECREF(capsule);
  Py_RETURN_NONE;
}

// at_exit_of_c(f): f() is called by an exit handler of C, as a C library has it.
PyObject* called_at_exit;
PyObject* AtExitOfC(PyObject*, PyObject* f) {
  called_at_exit = Py_NewRef(f);
  atexit([] {
    if (!AttachAndCall(called_at_exit)) puts("refused in the exit handler");
  });
  Py_RETURN_NONE;
}

// exit_of_c(place): exit(3) without Python's end, as a C library calls it after an
// error: attached, or detached, or on a native thread, attached or after it was.
PyObject* ExitOfC(PyObject*, PyObject* place) {
  const long where = PyLong_AsLong(place);
  if (where == 0) exit(3);
  Detached([&] {
    if (where == 1) exit(3);
    std::thread([&] {
      {
        Attach attach;
        if (attach && where == 2) exit(3);
      }
      exit(3);
    }).join();
  });
  Py_RETURN_NONE;
}

// errno_is_lost(): how often errno is not what it was, after a system call that
// failed, and in and after calls of Python by threads that come and go.
PyObject* ErrnoIsLost(PyObject*, PyObject*) {
  int lost = 0;
  Detached([] { (void)!write(-1, "", 1); });
  if (errno != EBADF) ++lost;
  Detached([&] {
    for (int i = 0; i < 300; ++i) {
      std::thread([&] {
        errno = EDOM;
        {
          Attach attach;
          if (errno != EDOM) ++lost;
          errno = EDOM;
        }
        if (errno != EDOM) ++lost;
      }).join();
    }
  });
  return PyLong_FromLong(lost);
}

// give_up_after(ms): pyhold's wait at the end, which the old way does not have.
PyObject* GiveUpAfter(PyObject*, PyObject* ms) {
  pyhold_wait_policy policy{};
  policy.give_up_after_ms = PyLong_AsLong(ms);
  pyhold_set_wait_policy(&policy);
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {{"call", Call, METH_O, nullptr},
                         {"begin", Begin, METH_O, nullptr},
                         {"flush", Flush, METH_O, nullptr},
                         {"block", Block, METH_NOARGS, nullptr},
                         {"nap", Nap, METH_O, nullptr},
                         {"interrupt", Interrupt, METH_NOARGS, nullptr},
                         {"at_exit_of_c", AtExitOfC, METH_O, nullptr},
                         {"exit_of_c", ExitOfC, METH_O, nullptr},
                         {"errno_is_lost", ErrnoIsLost, METH_NOARGS, nullptr},
                         {"give_up_after", GiveUpAfter, METH_O, nullptr},
                         {"set_file", SetFile, METH_O, nullptr},
                         {"write", Write, METH_O, nullptr},
                         {"capsule", Capsule, METH_NOARGS, nullptr},
                         {"in_dict", InDict, METH_NOARGS, nullptr},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "native",
                          nullptr,
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};
PyObject* InitNative() {
  if (with_pyhold) view = new InterpreterView(InterpreterView::Current());
  return PyModule_Create(&definition);
}

// What static objects do after Python has ended: a call is refused, where
// PyGILState_Ensure may do anything.
struct AtExit {
  ~AtExit() {
    if (view == nullptr) return;
    ThreadStateGuard guard(*view);
    if (!guard) puts("refused at exit");
  }
};

// argument: whether with pyhold. The script comes with the environment.
SCENARIO(Script) {
  static AtExit at_exit;
  with_pyhold = argument != 0;
  PyImport_AppendInittab("native", InitNative);
  const char* python = getenv("PYTHON_BIN_PATH");
  std::string program = python != nullptr ? python : "python3";
  char dash_c[] = "-c";
  char* argv[] = {program.data(), dash_c, getenv("REPLACES_SCRIPT"), nullptr};
  return Py_BytesMain(3, argv);
}

ChildResult RunScript(bool with, const std::string& script) {
  setenv("REPLACES_SCRIPT", script.c_str(), 1);
  return RunChild("Script", with, kLimitS);
}

constexpr bool kOld = false, kNew = true;

// --- The end of a script ---

TEST(ReplacesTest, FlushThatIsRegisteredBeforeTheImportDeliversAll) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, R"(
import atexit
arrived = []
def flush():
    native.flush(20)
    print(len(arrived), 'messages')
atexit.register(flush)
import native
native.begin(lambda: arrived.append(1))
native.flush(1)
)");
    EXPECT_EQ(result, Clean()) << way;
    EXPECT_THAT(result.output, HasSubstr("21 messages")) << way;
  }
}

// A listener that logging's users stop at exit, and what logging itself flushes at
// exit, both older than the import: their handlers go through native threads.
TEST(ReplacesTest, LogIsFlushedAtExit) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, R"(
import atexit, logging, logging.handlers, os, queue
class Native(logging.Handler):
    def emit(self, record):
        text = self.format(record).encode() + b'\n'
        native.call(lambda: os.write(1, text))
log = logging.getLogger()
buffer = logging.handlers.MemoryHandler(1000, target=Native())
records = queue.Queue()
listener = logging.handlers.QueueListener(records, Native())
listener.start()
atexit.register(listener.stop)
import native
log.addHandler(buffer)
log.addHandler(logging.handlers.QueueHandler(records))
def work():
    for i in range(20): log.warning('record %d', i)
native.call(work)
)");
    EXPECT_EQ(result, Clean()) << way;
    for (int i = 0; i < 20; ++i) {
      const std::string line = "record " + std::to_string(i) + "\n";
      const std::size_t first = result.output.find(line);
      ASSERT_NE(first, std::string::npos) << way << result.output;
      EXPECT_NE(result.output.find(line, first + 1), std::string::npos)
          << way << i << " came once: " << result.output;
    }
  }
}

TEST(ReplacesTest, FuturesThatArePendingAtTheEndAreDone) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, R"(
import atexit, concurrent.futures, native
done = []
atexit.register(lambda: print(len(done), 'done'))
pool = concurrent.futures.ThreadPoolExecutor(3)
for i in range(50): pool.submit(native.call, lambda: done.append(1))
)");
    EXPECT_EQ(result, Clean()) << way;
    EXPECT_THAT(result.output, HasSubstr("50 done")) << way;
  }
}

// exit() that C code calls: Python does not end, so its exit handlers call Python as
// ever. After Python's end they are refused; the old way is undefined then.
TEST(ReplacesTest, ExitHandlerOfACLibraryCallsPython) {
  const std::string script =
      "import native, os\n"
      "native.call(lambda: None)\n"
      "native.at_exit_of_c(lambda: os.write(1, b'flushed'))\n";
  for (bool way : {kOld, kNew}) {
    for (int place = 0; place < 4; ++place) {
      ChildResult result = RunScript(
          way, script + "native.exit_of_c(" + std::to_string(place) + ")");
      EXPECT_EQ(result.exit_code, 3) << way << place << result;
      EXPECT_EQ(result.output, "flushed") << way << place;
    }
  }
  ChildResult result = RunScript(kNew, script);
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("refused in the exit handler"));
  EXPECT_THAT(result.output, testing::Not(HasSubstr("flushed")));
}

// The one thing that the new way does not do by itself: a guard that never ends, here
// around a call that blocks for good, keeps the process, until the limit that the
// program sets. The report names the thread and the guard.
TEST(ReplacesTest, GuardThatNeverEndsIsNamedAndGivenUp) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, R"(
import native, threading, time
native.give_up_after(300)
native.begin(native.block)
threading.Thread(target=native.flush, args=(1,), daemon=True).start()
time.sleep(0.2)
)");
    EXPECT_EQ(result, Clean()) << way;
    if (way == kNew) {
      EXPECT_THAT(result.output, HasSubstr("waits no longer"));
      EXPECT_THAT(result.output, HasSubstr("replaces_test.cc:"));
    }
  }
}

TEST(ReplacesTest, DaemonInALongSystemCallDoesNotKeepTheProcess) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, R"(
import native, threading, time
for i in range(3):
    threading.Thread(target=native.block, daemon=True).start()
time.sleep(0.2)
print('done')
)");
    EXPECT_EQ(result, Clean()) << way;
    EXPECT_THAT(result.output, HasSubstr("done"));
  }
}

TEST(ReplacesTest, DaemonThatComesBackWhilePythonEndsDoesNoHarm) {
  for (int i = 0; i < 5; ++i) {
    ChildResult result = RunScript(kNew, R"(
import native, threading, time
def work():
    while True: native.nap(1)
for i in range(8):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
)");
    EXPECT_EQ(result, Clean());
  }
}

TEST(ReplacesTest, ThreadThatIsNoDaemonIsJoinedInItsSystemCall) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, R"(
import native, threading
def work():
    native.nap(300)
    print('came back')
threading.Thread(target=work).start()
)");
    EXPECT_EQ(result, Clean()) << way;
    EXPECT_THAT(result.output, HasSubstr("came back"));
  }
}

TEST(ReplacesTest, ExitStatusIsKept) {
  for (bool way : {kOld, kNew}) {
    EXPECT_EQ(
        RunScript(way, "import native, sys; native.call(print); sys.exit(5)")
            .exit_code,
        5);
    EXPECT_EQ(
        RunScript(way, "import native; native.call(print); raise KeyError")
            .exit_code,
        1);
    EXPECT_EQ(
        RunScript(way, "import native, os; native.call(lambda: os._exit(6))")
            .exit_code,
        6);
    EXPECT_EQ(
        RunScript(way,
                  "import native, atexit, os\n"
                  "atexit.register(lambda: os._exit(7)); native.call(print)")
            .exit_code,
        7);
  }
}

// PyErr_Print() finalizes on the native thread, which the main thread joins.
TEST(ReplacesTest, SystemExitOnANativeThreadEndsTheProcess) {
#ifdef Py_DEBUG
  GTEST_SKIP() << "CPython's own assertion does not let another thread end it";
#endif
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, R"(
import atexit, native, os, sys
atexit.register(lambda: os.write(1, b'bye\n'))
native.call(lambda: sys.exit(3))
os.write(1, b'went on\n')
)");
    EXPECT_EQ(result.exit_code, 3) << way << result;
    EXPECT_THAT(result.output, HasSubstr("bye"));
    EXPECT_THAT(result.output, testing::Not(HasSubstr("went on")));
  }
}

// --- Signals ---

TEST(ReplacesTest, CtrlCReachesTheMainThreadInASystemCall) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, R"(
import native, signal
signal.siginterrupt(signal.SIGINT, True)
native.interrupt()
try: native.block()
except KeyboardInterrupt: print('interrupted')
)");
    EXPECT_EQ(result, Clean()) << way;
    EXPECT_THAT(result.output, HasSubstr("interrupted"));
  }
}

// A native thread writes a record when the signal comes that ends the script. The old
// way tears the record: it does not wait. A second SIGTERM, whose handler calls
// sys.exit() too, comes while the gate waits.
std::string RecordOf(const std::string& signal, bool again) {
  return R"(
import native, os, signal, sys, threading, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
def record():
    os.write(1, b'begin ')
    os.kill(os.getpid(), signal.)" +
         signal + R"()
    for i in range(10):
        time.sleep(0.1)
        if i == 4 and )" +
         (again ? "True" : "False") + R"(: os.kill(os.getpid(), signal.SIGTERM)
    os.write(1, b'end ')
native.begin(record)
threading.Thread(target=native.flush, args=(1,), daemon=True).start()
while True: time.sleep(0.01)
)";
}

void ExpectRecord(bool way, const ChildResult& result) {
  EXPECT_THAT(result.output, HasSubstr("begin ")) << way;
  if (way == kNew)
    EXPECT_THAT(result.output, HasSubstr("end "));
  else
    EXPECT_THAT(result.output, testing::Not(HasSubstr("end ")));
}

TEST(ReplacesTest, SignalsDoNotTearARecord) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, RecordOf("SIGTERM", way == kNew));
    EXPECT_EQ(result.exit_code, 5) << way << result;
    ExpectRecord(way, result);
  }
}

// Python ends by the signal, so that a shell stops its loop.
TEST(ReplacesTest, CtrlCEndsTheProcessByItsSignal) {
  for (bool way : {kOld, kNew}) {
    ChildResult result = RunScript(way, RecordOf("SIGINT", false));
    EXPECT_EQ(result.signal, SIGINT) << way << result;
    EXPECT_THAT(result.output, HasSubstr("KeyboardInterrupt"));
    ExpectRecord(way, result);
  }
}

// --- What Python code sees on a native thread ---

TEST(ReplacesTest, ErrnoIsKept) {
  for (bool way : {kOld, kNew}) {
    ChildResult result =
        RunScript(way, "import native; print(native.errno_is_lost(), 'lost')");
    EXPECT_EQ(result, Clean()) << way;
    EXPECT_THAT(result.output, HasSubstr("0 lost\n")) << way;
  }
}

// Names, identities, values, and what is left of them at the end: three calls on one
// thread, two on others. The output is the same line by line, also where a native
// thread is the first to import threading.
TEST(ReplacesTest, NativeThreadsLookTheSame) {
  const std::string script = R"(
import atexit, contextvars, native, sys
variable = contextvars.ContextVar('variable', default='unset')
kept = {}
def look():
    import threading
    local = kept.setdefault('local', threading.local())
    t = threading.current_thread()
    print(t.name, t.daemon, t.is_alive(), t is threading.main_thread(),
          t.ident == threading.get_ident(), t.native_id == threading.get_native_id(),
          hasattr(local, 'x'), variable.get(), sys.gettrace(), sys.getprofile(),
          sys.exc_info(), sys.get_coroutine_origin_tracking_depth(), flush=True)
    local.x = 1
    variable.set('set')
    sys.set_coroutine_origin_tracking_depth(3)
    if len(threading.enumerate()) > 3: raise KeyError('too many')
def end():
    import threading
    print(sorted(t.name for t in threading.enumerate()), flush=True)
atexit.register(end)
native.begin(look)
native.flush(3)
native.call(look)
native.call(look)
)";
  for (const char* first : {"import threading\n", ""}) {
    ChildResult old_way = RunScript(kOld, first + script);
    ChildResult new_way = RunScript(kNew, first + script);
    EXPECT_EQ(old_way, Clean());
    EXPECT_EQ(new_way, Clean());
    EXPECT_THAT(old_way.output, HasSubstr("unset"));
    std::string output = new_way.output;
    const std::string refused = "refused at exit\n";
    const std::size_t at = output.find(refused);
    ASSERT_NE(at, std::string::npos) << output;
    EXPECT_EQ(output.erase(at, refused.size()), old_way.output) << first;
  }
}

// --- The last word ---

struct Place {
  const char* name;
  const char* script;  // `native` is imported; write(True): others are refused
};
const Place kPlaces[] = {
    {"EarlierCallback", ""},  // see below
    {"LaterCallback", "import atexit; atexit.register(native.write, False)"},
    {"DelOfAGlobal",
     "class Late:\n"
     "  def __del__(self, write=native.write): write(True)\n"
     "late = Late()"},
    {"WeakrefCallback",
     "import weakref\n"
     "class Late: pass\n"
     "sys._late = Late()\n"  // such names go first
     "sys.reference = weakref.ref(sys._late,\n"
     "                            lambda _, w=native.write: w(True))\n"},
    {"GeneratorClose",
     "def generate(write):\n"
     "  try: yield\n"
     "  finally: write(True)\n"
     "late = generate(native.write)\n"
     "next(late)"},
    {"CapsuleOfAGlobal", "late = native.capsule()"},
    {"ThreadingLocal",
     "import threading\n"
     "class Late:\n"
     "  def __del__(self, write=native.write): write(True)\n"
     "local = threading.local()\n"
     "local.late = Late()"},
    {"Cycle",
     "class Late:\n"
     "  def __del__(self, write=native.write): write(True)\n"
     "late = Late()\n"
     "late.itself = late"},
    {"ContextVariable",
     "import contextvars\n"
     "late = contextvars.ContextVar('late')\n"
     "late.set(native.capsule())"},
#if PY_VERSION_HEX < 0x030C0000  // later versions don't fork at their end
    {"ForkedChild",
     "import os\n"
     "class Late:\n"
     "  def __del__(self, write=native.write, os=os):\n"
     "    child = os.fork()\n"
     "    if child == 0:\n"
     "      write(False)\n"
     "      os._exit(0)\n"
     "    os.waitpid(child, 0)\n"
     "late = Late()"},
#endif
};

class LastWordTest : public testing::TestWithParam<Place> {};
INSTANTIATE_TEST_SUITE_P(ReplacesTest, LastWordTest, testing::ValuesIn(kPlaces),
                         [](const auto& info) { return info.param.name; });

TEST_P(LastWordTest, IsWritten) {
  const std::string path =
      std::string(getenv("TEST_TMPDIR")) + "/" + GetParam().name;
  for (bool way : {kOld, kNew}) {
    std::string script = "import sys\n";
    if (GetParam().name == std::string("EarlierCallback"))
      script +=
          "import atexit\n"
          "atexit.register(lambda: native.write(False))\n";
    script += "import native\nnative.call(lambda: None)\n";
    script += "native.set_file(open('" + path + "', 'wb', buffering=0))\n";
    script += GetParam().script;
    ChildResult result = RunScript(way, script);
    EXPECT_EQ(result, Clean()) << way;
    std::stringstream written;
    written << std::ifstream(path).rdbuf();
    EXPECT_EQ(written.str(), "late") << way << result.output;
    unlink(path.c_str());
    if (way == kNew) {
      EXPECT_THAT(result.output, HasSubstr("refused at exit"));
    }
  }
}

}  // namespace
