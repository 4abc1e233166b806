// Children of fork(): each is as a process that has just imported its modules.
// Real interpreters; each scenario is a child process, which forks others.
#include "tests/support/python.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <future>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/object_ref.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::ObjectRef;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;
using testing::HasSubstr;

constexpr int kLimitS = 40;
constexpr unsigned kChildLimitS = 20;

// As os.fork(). Attached.
pid_t Fork() {
  PyOS_BeforeFork();
  const pid_t pid = fork();
  if (pid == 0) {
    PyOS_AfterFork_Child();
    alarm(kChildLimitS);
  } else {
    PyOS_AfterFork_Parent();
  }
  REQUIRE(pid >= 0);
  return pid;
}

// What became of a child: its exit status, or the signal that ended it, negative.
// Attached.
int Await(pid_t pid) {
  ThreadStateDetachGuard detached;
  int status;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  const int result =
      WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  if (result != 0) fprintf(stderr, "child: %d\n", result);
  return result;
}

bool CallPython(const InterpreterView& view) {
  ThreadStateGuard guard(view);
  if (!guard) {
    REQUIRE(guard.status() == PYHOLD_EFINALIZING);
    return false;
  }
  REQUIRE(Eval("sum([1, 2, 3])") == 6);
  return true;
}

// Native threads of a process. Only the process that made them joins them.
class Pool {
 public:
  enum Kind { kIdle, kBusy };  // each has called Python and keeps a state

  // Attached.
  Pool(const InterpreterView& view, Kind kind, int threads) {
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back([=] {
        REQUIRE(CallPython(view));
        ++ready_;
        while (kind == kIdle ? !stop_ : !stop_ && CallPython(view)) {
          if (kind == kIdle)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        if (kind == kBusy && !stop_) ++refused_;
      });
    }
    ThreadStateDetachGuard detached;
    while (ready_ < threads) std::this_thread::yield();
  }

  // Detached, or after the end.
  void Join() {
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }
  // Attached.
  void Stop() {
    stop_ = true;
    ThreadStateDetachGuard detached;
    Join();
  }
  int refused() const { return refused_; }
  // In a child: its threads do not exist.
  void Forget() { new std::vector<std::thread>(std::move(threads_)); }

 private:
  std::vector<std::thread> threads_;
  std::atomic<int> ready_{0}, refused_{0};
  std::atomic<bool> stop_{false};
};

// Whether a child may call Py_FinalizeEx() on the thread that forked. On 3.13 to 3.15
// that attaches the state of the parent's main thread, which is deleted.
bool MayFinalize() {
  static const std::thread::id main_thread = std::this_thread::get_id();
  return PY_VERSION_HEX < 0x030D0000 ||
         std::this_thread::get_id() == main_thread;
}
const bool main_thread_is_known = MayFinalize();

// In a child, attached: a pool of its own calls Python while it ends.
void FinalizeUnderLoad(const InterpreterView& view) {
  REQUIRE(main_thread_is_known && CallPython(view));
  Pool pool(view, Pool::kBusy, 4);
  if (MayFinalize()) {
    REQUIRE(Py_FinalizeEx() == 0);
  } else {  // as children of multiprocessing do, before os._exit()
    Exec(
        "import atexit, threading\n"
        "threading._shutdown()\n"
        "atexit._run_exitfuncs()");
  }
  pool.Join();
  REQUIRE(pool.refused() == 4);
  REQUIRE(!view.Hold());
}

// --- Where it forks ---

enum Place {
  kMain,
  kPythonThread,
  kInGuard,
  kInNestedGuards,
  kInDetachGuard,   // in a guard in it
  kInHoldingGuard,  // the same, one that holds
  kInPersistentState,
  kPlaces
};
const char* const kPlaceNames[] = {
    "Main",          "PythonThread",   "InGuard",          "InNestedGuards",
    "InDetachGuard", "InHoldingGuard", "InPersistentState"};

std::function<void()>* in_python_thread;
PyObject* CallIt(PyObject*, PyObject*) {
  (*in_python_thread)();
  Py_RETURN_NONE;
}
PyMethodDef call_it = {"call_it", CallIt, METH_NOARGS, nullptr};

// Calls `fork_here` at a place. Attached. (Not with subinterpreters: in a child
// CPython crashes, or hangs on 3.11, when it deletes them.)
void At(Place place, const InterpreterView& view,
        std::function<void()> fork_here) {
  if (place == kMain) return fork_here();
  if (place == kPythonThread) {
    in_python_thread = &fork_here;
    PyObject* function = PyCFunction_New(&call_it, nullptr);
    PyObject_SetAttrString(PyImport_AddModule("__main__"), "call_it", function);
    Py_DECREF(function);
    return Exec(
        "import threading\n"
        "t = threading.Thread(target=call_it)\n"
        "t.start(); t.join()");
  }
  ThreadStateDetachGuard detached;
  std::thread([&] {
    switch (place) {
      case kInNestedGuards: {
        ThreadStateGuard one(view), two(view);
        ThreadStateGuard guard(view.Hold());
        REQUIRE(guard);
        return fork_here();
      }
      case kInDetachGuard: {
        ThreadStateGuard outer(view);
        ThreadStateDetachGuard let_go;
        ThreadStateGuard guard(view);
        REQUIRE(guard);
        return fork_here();
      }
      case kInHoldingGuard: {
        PyGILState_STATE state = PyGILState_Ensure();
        {
          ThreadStateDetachGuard let_go(pyhold::kHolding);
          ThreadStateGuard guard(view);
          REQUIRE(guard);
          fork_here();
        }
        PyGILState_Release(state);
        return;
      }
      case kInPersistentState: {
        pyhold::PersistentThreadState state(view);
        REQUIRE(state);
        ThreadStateGuard guard(view);
        REQUIRE(guard);
        return fork_here();
      }
      default: {
        ThreadStateGuard guard(view);
        REQUIRE(guard);
        return fork_here();
      }
    }
  }).join();
}

// The child finalizes inside of the guards (argument / 100 == 0), or when it has
// left them.
SCENARIO(ChildFinalizes) {
  const Place place = static_cast<Place>(argument % 10);
  const auto kind = argument / 10 % 10 == 0 ? Pool::kIdle : Pool::kBusy;
  const bool inside = argument / 100 == 0;
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Pool pool(view, kind, kind == Pool::kIdle ? 3 : 8);
  const int parent = getpid();
  for (int round = 0; round < 3; ++round) {
    At(place, view, [&] {
      const pid_t pid = Fork();
      if (pid != 0) {
        REQUIRE(Await(pid) == 0);
        return;
      }
      pool.Forget();
      REQUIRE(view.Hold());
      REQUIRE(InterpreterRef::Lookup(0));
      if (!inside) return;
      FinalizeUnderLoad(view);
      _exit(0);
    });
    REQUIRE(getpid() == parent);
  }
  pool.Stop();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}

// The same on a thread that leaves its guards in the child, and finalizes then.
SCENARIO(ChildLeavesItsGuards) {
  const Place place = static_cast<Place>(argument);
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Pool pool(view, Pool::kBusy, 4);
  PyThreadState* saved = PyEval_SaveThread();
  std::thread([&] {
    pid_t pid = -1;
    auto fork_here = [&] { pid = Fork(); };
    {
      ThreadStateGuard before(view);  // its state is kept
    }
    if (place == kInNestedGuards) {
      ThreadStateGuard one(view), two(view);
      fork_here();
    } else if (place == kInDetachGuard) {
      ThreadStateGuard outer(view);
      ThreadStateDetachGuard let_go;
      ThreadStateGuard guard(view);
      fork_here();
    } else if (place == kInHoldingGuard) {
      PyGILState_STATE state = PyGILState_Ensure();
      {
        ThreadStateDetachGuard let_go(pyhold::kHolding);
        ThreadStateGuard guard(view);
        fork_here();
      }
      PyGILState_Release(state);
    } else if (place == kInPersistentState) {
      pyhold::PersistentThreadState state(view);
      ThreadStateGuard guard(view);
      fork_here();
    } else {
      ThreadStateGuard guard(view);
      fork_here();
    }
    if (pid == 0) {
      pool.Forget();
      REQUIRE(CallPython(view));
      (void)PyGILState_Ensure();
      FinalizeUnderLoad(view);
      _exit(0);
    }
    ThreadStateGuard guard(view);
    REQUIRE(Await(pid) == 0);
  }).join();
  PyEval_RestoreThread(saved);
  pool.Stop();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}

class ForkPlaceTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, ForkPlaceTest, testing::Range(0, int{kPlaces}),
                         [](const auto& info) {
                           return kPlaceNames[info.param];
                         });

TEST_P(ForkPlaceTest, ChildFinalizesUnderLoad) {
  for (int busy = 0; busy < 2; ++busy) {
    EXPECT_EQ(RunChild("ChildFinalizes", GetParam() + 10 * busy, kLimitS),
              Clean())
        << "busy: " << busy;
  }
}

TEST_P(ForkPlaceTest, ChildLeavesItsGuardsAndFinalizes) {
  if (GetParam() == kMain || GetParam() == kPythonThread)
    GTEST_SKIP() << "there is nothing to leave";
  EXPECT_EQ(RunChild("ChildLeavesItsGuards", GetParam(), kLimitS), Clean());
}

// --- How the child ends ---

SCENARIO(ChildEndsIn) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Pool idle(view, Pool::kIdle, 3);
  Pool busy(view, Pool::kBusy, 8);
  for (int i = 0; i < 10; ++i) {
    At(i % 2 && argument != 4 ? kInGuard : kMain, view, [&] {
      const pid_t pid = Fork();
      if (pid != 0) {
        const int expected[] = {0, 7, 0, -SIGSEGV, 5};
        REQUIRE(Await(pid) == expected[argument]);
        return;
      }
      idle.Forget();
      busy.Forget();
      REQUIRE(CallPython(view));
      switch (argument) {
        case 0:
          FinalizeUnderLoad(view);
          _exit(0);
        case 1:
          new Pool(view, Pool::kBusy, 4);
          _exit(7);
        case 2:
          new Pool(view, Pool::kBusy, 4);
          execl("/bin/true", "true", static_cast<char*>(nullptr));
          _exit(1);
        case 3:
          new Pool(view, Pool::kBusy, 4);
          signal(SIGSEGV, SIG_DFL);
          raise(SIGSEGV);
          _exit(1);
        default:  // sys.exit(), through Py_FinalizeEx and exit()
          new Pool(view, Pool::kBusy, 4);
          PyRun_SimpleString("import sys; sys.exit(5)");
          _exit(1);
      }
    });
  }
  busy.Stop();
  idle.Stop();
  REQUIRE(CallPython(view));
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ForkTest, ChildEndsByFinalizing) {
  EXPECT_EQ(RunChild("ChildEndsIn", 0, kLimitS), Clean());
}
TEST(ForkTest, ChildEndsByUnderscoreExit) {
  EXPECT_EQ(RunChild("ChildEndsIn", 1, kLimitS), Clean());
}
TEST(ForkTest, ChildEndsByExec) {
  EXPECT_EQ(RunChild("ChildEndsIn", 2, kLimitS), Clean());
}
TEST(ForkTest, ChildEndsByACrash) {
  EXPECT_EQ(RunChild("ChildEndsIn", 3, kLimitS), Clean());
}
TEST(ForkTest, ChildEndsBySysExit) {
  EXPECT_EQ(RunChild("ChildEndsIn", 4, kLimitS), Clean());
}

// --- What the child inherits ---

// Returns when the gate has closed, and a moment later. Detached.
void AwaitClose() {
  while (InterpreterRef::Lookup(0)) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
}

// Holds of before the fork, which the child keeps, gives back, copies or uses. None
// is waited for, and none hides one that the child makes.
SCENARIO(HoldsOverFork) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  InterpreterRef one = view.Hold(), two = view.Hold();
  std::promise<void> inside, over;
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    ThreadStateDetachGuard detached;
    inside.set_value();
    over.get_future().wait();
  });
  {
    ThreadStateDetachGuard detached;
    inside.get_future().wait();
  }
  const pid_t pid = Fork();
  if (pid == 0) {
    new std::thread(std::move(holder));
    std::atomic<bool> finalized{false};
    std::thread user;
    if (argument & 1) {  // one of its own, which is waited for
      InterpreterRef own = view.Hold();
      REQUIRE(own);
      user = std::thread([&, own = std::move(own)]() mutable {
        AwaitClose();
        REQUIRE(!finalized);
        std::thread([&] {  // one of before is not enough
          REQUIRE(ThreadStateGuard(two).status() == PYHOLD_EFINALIZING);
        })
            .join();
        ThreadStateGuard guard(std::move(own));
        REQUIRE(guard);
        REQUIRE(Eval("1 + 1") == 2);
        REQUIRE(!finalized);
      });
    }
    if (argument & 2) one = InterpreterRef();
    if (argument & 4) {
      InterpreterRef copy = two;
      REQUIRE(copy.id() == 0);
      ThreadStateGuard guard(two);
      REQUIRE(guard);
      ThreadStateGuard taken_over(std::move(copy));
      REQUIRE(taken_over);
    }
    if (argument & 8) view = InterpreterView();
    REQUIRE(Py_FinalizeEx() == 0);
    finalized = true;
    if (user.joinable()) user.join();
    REQUIRE(two.id() == 0);  // still there to be asked
    REQUIRE(ThreadStateGuard(two).status() == PYHOLD_EFINALIZING);
    two = one = InterpreterRef();
    _exit(0);
  }
  REQUIRE(Await(pid) == 0);
  over.set_value();
  {
    ThreadStateDetachGuard detached;
    holder.join();
  }
  // The parent waits for its own, as ever.
  std::atomic<bool> finalized{false};
  std::thread user([&] {
    AwaitClose();
    REQUIRE(!finalized);
    one = two = InterpreterRef();
  });
  REQUIRE(Py_FinalizeEx() == 0);
  finalized = true;
  user.join();
  return 0;
}
TEST(ForkTest, OldHoldsAreNotWaitedForAndNewOnesAre) {
  for (int argument = 0; argument < 16; ++argument) {
    EXPECT_EQ(RunChild("HoldsOverFork", argument, kLimitS), Clean())
        << argument;
  }
}

// A number that parent and child both see.
std::atomic<int>* SharedNumber() {
  void* page = mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(page != MAP_FAILED);
  return new (page) std::atomic<int>(0);
}

static std::atomic<int>* ended_here;
PyObject* CountEnd(PyObject*, PyObject*) {
  ++*ended_here;
  Py_RETURN_NONE;
}
PyMethodDef count_end = {"count_end", CountEnd, METH_NOARGS, nullptr};

ObjectRef NewObject(const InterpreterView& view) {
  PyObject* dict = PyModule_GetDict(PyImport_AddModule("__main__"));
  PyObject* object = PyRun_String("Object()", Py_eval_input, dict, dict);
  REQUIRE(object != nullptr);
  auto result = ObjectRef::Steal(view, object);
  REQUIRE(result);
  return result;
}

// Some are deferred when it forks, some are given back by parent and child.
SCENARIO(ObjectsOverFork) {
  StartPython();
  PyObject* function = PyCFunction_New(&count_end, nullptr);
  PyObject_SetAttrString(PyImport_AddModule("__main__"), "count_end", function);
  Py_DECREF(function);
  Exec("class Object:\n  def __del__(self): count_end()");
  InterpreterView view = InterpreterView::Current();
  ended_here = SharedNumber();
  std::atomic<int>& in_child = *SharedNumber();
  if (argument == 1) pyhold_set_service_thread(false);
  std::vector<ObjectRef> objects;
  for (int i = 0; i < 20; ++i) objects.push_back(NewObject(view));
  {
    // Nobody can run what is deferred: this thread is attached.
    std::thread([&] { objects.resize(10, ObjectRef()); }).join();
  }
  REQUIRE(pyhold_deferred_count(view.raw()) == 10);
  const pid_t pid = Fork();
  if (pid == 0) ended_here = &in_child;
  auto give_back = [&] {
    ThreadStateDetachGuard detached;
    std::thread([&] {
      objects.clear();
      if (argument == 1) {
        while (pyhold_deferred_count(view.raw()) != 0) CallPython(view);
      }
      REQUIRE(pyhold_deferred_wait(view.raw(), 10000) == PYHOLD_OK);
    }).join();
  };
  if (argument == 2 && pid == 0) {
    objects.clear();  // attached; what was deferred is the gate's to do
  } else {
    give_back();
  }
  if (pid == 0) {
    REQUIRE(Py_FinalizeEx() == 0);
    REQUIRE(*ended_here == 20);
    REQUIRE(pyhold_deferred_leaked() == 0);
    _exit(0);
  }
  REQUIRE(Await(pid) == 0);
  REQUIRE(*ended_here == 20 && in_child == 20);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ForkTest, ObjectsAreGivenBackOnceInEachProcess) {
  for (int argument = 0; argument < 3; ++argument) {
    EXPECT_EQ(RunChild("ObjectsOverFork", argument, kLimitS), Clean())
        << argument;
  }
}

// What is deferred forks: the count is right in the child, too.
struct ForkingNode {
  pyhold_deferred node;
  pid_t pid = -1;
};
SCENARIO(DeferredForks) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  ForkingNode forking;
  pyhold_deferred others[3];
  forking.node.run = [](pyhold_deferred* node, bool attached) {
    REQUIRE(attached);
    reinterpret_cast<ForkingNode*>(node)->pid = Fork();
  };
  for (auto& other : others)
    other.run = [](pyhold_deferred*, bool attached) { REQUIRE(attached); };
  pyhold_set_service_thread(false);
  std::thread([&] {
    pyhold_defer(view.raw(), &forking.node);
    for (auto& other : others) pyhold_defer(view.raw(), &other);
  }).join();
  ThreadStateDetachGuard detached;
  std::thread([&] {
    REQUIRE(CallPython(view));  // does the work
    while (pyhold_deferred_count(view.raw()) != 0) REQUIRE(CallPython(view));
    REQUIRE(pyhold_deferred_wait(view.raw(), 1000) == PYHOLD_OK);
    if (forking.pid == 0) {
      (void)PyGILState_Ensure();
      FinalizeUnderLoad(view);
      _exit(0);
    }
    ThreadStateGuard guard(view);
    REQUIRE(Await(forking.pid) == 0);
  }).join();
  return 0;
}
TEST(ForkTest, WhatIsDeferredMayFork) {
  EXPECT_EQ(RunChild("DeferredForks", 0, kLimitS), Clean());
}

SCENARIO(OnCloseOverFork) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  auto* told = SharedNumber();
  auto tell = [](void* number) { ++*static_cast<std::atomic<int>*>(number); };
  REQUIRE(pyhold_on_close(view.raw(), tell, told) == PYHOLD_OK);
  const pid_t pid = Fork();
  if (pid == 0) {
    REQUIRE(!pyhold_on_close_cancel(view.raw(), tell, told));
    if (argument == 1)
      REQUIRE(pyhold_on_close(view.raw(), tell, told) == PYHOLD_OK);
    REQUIRE(Py_FinalizeEx() == 0);
    REQUIRE(*told == argument);
    _exit(0);
  }
  REQUIRE(Await(pid) == 0);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(*told == argument + 1);
  return 0;
}
TEST(ForkTest, CallsOfOnCloseAreForgottenInTheChild) {
  EXPECT_EQ(RunChild("OnCloseOverFork", 0, kLimitS), Clean());
  EXPECT_EQ(RunChild("OnCloseOverFork", 1, kLimitS), Clean());
}

// What the forking thread had set stays, as its state does.
SCENARIO(PersistentStateOverFork) {
  StartPython();
  Exec("import threading; local = threading.local()");
  InterpreterView view = InterpreterView::Current();
  ThreadStateDetachGuard detached;
  std::thread([&] {
    pyhold::PersistentThreadState state(view);
    {
      ThreadStateGuard guard(view);
      Exec("local.x = 7");
    }
    pid_t pid;
    {
      ThreadStateGuard guard(view);
      pid = Fork();
    }
    {
      ThreadStateGuard guard(view);
      REQUIRE(guard);
      REQUIRE(Eval("local.x") == 7);
    }
    if (pid == 0) {
      (void)PyGILState_Ensure();
      FinalizeUnderLoad(view);
      _exit(0);
    }
    ThreadStateGuard guard(view);
    REQUIRE(Await(pid) == 0);
  }).join();
  return 0;
}
TEST(ForkTest, PersistentStateOfTheForkingThreadLasts) {
  EXPECT_EQ(RunChild("PersistentStateOverFork", 0, kLimitS), Clean());
}

// In callbacks of atexit, and by a thread that the gate waits for.
SCENARIO(ForkAtTheEnd) {
  StartPython();
  static InterpreterView view;
  in_python_thread = new std::function<void()>([] {
    const pid_t pid = Fork();
    if (pid == 0) {
      REQUIRE(CallPython(view));
      return;  // goes on to finalize, too
    }
    REQUIRE(Await(pid) == 0);
  });
  PyObject* function = PyCFunction_New(&call_it, nullptr);
  PyObject_SetAttrString(PyImport_AddModule("__main__"), "call_it", function);
  Py_DECREF(function);
  if (argument == 0) Exec("import atexit; atexit.register(call_it)");
  view = InterpreterView::Current();
  if (argument == 1) Exec("import atexit; atexit.register(call_it)");
  std::promise<void> inside;
  std::thread forker;
  if (argument == 2) {
    forker = std::thread([&] {
      ThreadStateGuard guard(view);
      REQUIRE(guard);
      inside.set_value();
      {
        ThreadStateDetachGuard detached;
        AwaitClose();
      }
      const pid_t pid = Fork();
      if (pid == 0) {
        REQUIRE(CallPython(view));  // nests
        std::thread([&] { REQUIRE(!CallPython(view)); }).join();
        _exit(0);
      }
      REQUIRE(Await(pid) == 0);
    });
    ThreadStateDetachGuard detached;
    inside.get_future().wait();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  if (argument == 2) forker.join();
  _exit(0);
}
TEST(ForkTest, ForkWhileTheParentEnds) {
  for (int argument = 0; argument < 3; ++argument) {
    EXPECT_EQ(RunChild("ForkAtTheEnd", argument, kLimitS), Clean()) << argument;
  }
}

// --- Again and again ---

void ForkOfFork(const InterpreterView& view, int depth) {
  Pool pool(view, depth % 2 ? Pool::kIdle : Pool::kBusy, 3);
  InterpreterRef hold = view.Hold();
  REQUIRE(hold);
  const pid_t pid = Fork();
  if (pid == 0) {
    pool.Forget();
    if (depth > 0) ForkOfFork(view, depth - 1);
    FinalizeUnderLoad(view);
    hold = InterpreterRef();
    _exit(0);
  }
  REQUIRE(Await(pid) == 0);
  pool.Stop();
}

SCENARIO(ForkOfForks) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  ForkOfFork(view, 5);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ForkTest, ForkOfAForkFiveDeep) {
  EXPECT_EQ(RunChild("ForkOfForks", 0, kLimitS), Clean());
}

long ResidentKilobytes() {
  std::ifstream statm("/proc/self/statm");
  long size, resident;
  statm >> size >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

int ThreadStates() {
  int states = 0;
  for (PyThreadState* s =
           PyInterpreterState_ThreadHead(PyInterpreterState_Get());
       s != nullptr; s = PyThreadState_Next(s))
    ++states;
  return states;
}

SCENARIO(ForkInALoop) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Pool pool(view, Pool::kIdle, 3);
  long before = 0;
  int states = 0;
  for (int i = 0; i < 220; ++i) {
    if (i == 20) {
      before = ResidentKilobytes();
      states = ThreadStates();
    }
    const pid_t pid = Fork();
    if (pid == 0) _exit(0);
    REQUIRE(Await(pid) == 0);
  }
  REQUIRE(ThreadStates() == states);
  REQUIRE(ResidentKilobytes() < before + 1024);
  pool.Stop();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ForkTest, ParentDoesNotGrowInALoop) {
  EXPECT_EQ(RunChild("ForkInALoop", 0, kLimitS), Clean());
}

// Eight threads call Python in a loop, and children that do the same and finalize
// are forked from the main thread and from one of the others. Neither the children
// nor the parent hang, crash or lose a thread.
SCENARIO(Storm) {
  std::minstd_rand random(static_cast<unsigned>(argument) + 1);
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Pool pool(view, Pool::kBusy, 7);
  std::vector<ObjectRef> objects;
  Exec("class Object: pass");
  std::thread dropper([&] {
    for (int i = 0; i < 100; ++i) {
      std::vector<ObjectRef> some;
      {
        ThreadStateGuard guard(view);
        if (!guard) return;
        for (int k = 0; k < 10; ++k) some.push_back(NewObject(view));
      }
    }
  });
  for (int round = 0; round < 4; ++round) {
    std::atomic<unsigned> spin{static_cast<unsigned>(random() % 20000)};
    while (spin > 0) --spin;
    At(static_cast<Place>(random() % kPlaces), view, [&] {
      const pid_t pid = Fork();
      if (pid != 0) {
        REQUIRE(Await(pid) == 0);
        return;
      }
      pool.Forget();
      new std::thread(std::move(dropper));
      FinalizeUnderLoad(view);
      _exit(0);
    });
  }
  {
    ThreadStateDetachGuard detached;
    dropper.join();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  pool.Join();
  REQUIRE(pool.refused() == 7);
  return 0;
}
TEST(ForkTest, StormInChildren) {
  const char* runs = getenv("PYHOLD_STORM_RUNS");
  const int run_count =
      runs != nullptr ? atoi(runs) : 8;  // of four children each
  std::atomic<int> next{0};
  auto work = [&] {
    for (int i; (i = next++) < run_count;)
      EXPECT_EQ(RunChild("Storm", i, kLimitS), Clean()) << "run " << i;
  };
  std::thread other(work);
  work();
  other.join();
}

// --- Python's own ways to fork ---

// CPython warns of a fork with several threads from 3.12 on. pyhold's service thread
// is none of them.
SCENARIO(NoThreadMore) {
  StartPython();
  Exec("class Object: pass");
  InterpreterView view = InterpreterView::Current();
  for (int i = 0; i < 20; ++i) {
    ObjectRef object = NewObject(view);
    {
      ThreadStateDetachGuard detached;
      pid_t dropper;
      std::thread([&] {
        dropper = gettid();
        object = ObjectRef();
      }).join();
      const std::string task = "/proc/self/task/" + std::to_string(dropper);
      while (access(task.c_str(), F_OK) == 0) std::this_thread::yield();
      REQUIRE(pyhold_deferred_wait(view.raw(), 10000) == PYHOLD_OK);
    }
    Exec(R"(
import os, warnings
warnings.simplefilter('error')
pid = os.fork()
if pid == 0: os._exit(0)
os.waitpid(pid, 0)
)");
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ForkTest, ServiceThreadMakesNoWarningMore) {
  ChildResult result = RunChild("NoThreadMore", 0, kLimitS);
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, testing::Not(HasSubstr("DeprecationWarning")));
}

ChildResult RunScript(const std::string& script) {
  const std::string file =
      std::string(getenv("TEST_TMPDIR")) + "/fork_script.py";
  std::ofstream(file) << script;
  return RunProgram(
      [&] {
        setenv("PYTHONPATH", "tests/extension", 1);
        const char* python = getenv("PYTHON_BIN_PATH");
        if (python == nullptr) python = "python3";
        execlp(python, python, "-W", "ignore", file.c_str(),
               static_cast<char*>(nullptr));
      },
      60);
}

// argument of the script: how to make a pool of `method`.
const char kPools[] = R"(
import concurrent.futures, multiprocessing, os, sys
import probe_one

def work(i):
    probe_one.start(lambda: sum(range(10)), 2)
    probe_one.await_calls(20)
    return i * i

if __name__ == '__main__':
    probe_one.start(lambda: sum(range(10)), 4)
    probe_one.await_calls(50)
    for method in 'fork', 'forkserver':
        context = multiprocessing.get_context(method)
        with context.Pool(3) as pool:
            assert pool.map(work, range(9)) == [i * i for i in range(9)]
            pool.close()
            pool.join()
        with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as pool:
            assert list(pool.map(work, range(9))) == [i * i for i in range(9)]
        process = context.Process(target=work, args=(1,))
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode
    probe_one.await_calls(50)
    print('all right')
)";
TEST(ForkTest, MultiprocessingAndFutures) {
  ChildResult result = RunScript(kPools);
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("all right"));
  EXPECT_THAT(result.output, HasSubstr("4 threads, 4 refused, 0 failed"));
}

// Children that end as programs do: their threads are refused, and joined.
TEST(ForkTest, ScriptsThatFork) {
  ChildResult result = RunScript(R"(
import os, sys, threading
import probe_one
probe_one.start(lambda: sum(range(10)), 8)
probe_one.await_calls(50)
def fork_and_wait():
    pid = os.fork()
    if pid == 0:
        probe_one.start(lambda: sum(range(10)), 3)
        probe_one.await_calls(50)
        if threading.current_thread() is not threading.main_thread():
            raise SystemError
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
for i in range(5): fork_and_wait()
print('all right')
)");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("all right"));
  EXPECT_THAT(result.output, HasSubstr("3 threads, 3 refused, 0 failed"));
  EXPECT_THAT(result.output, HasSubstr("8 threads, 8 refused, 0 failed"));
}

}  // namespace
