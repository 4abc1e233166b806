// What is to be done attached, later, and the thread that does it, on real
// interpreters: pyhold_defer(), Defer(), BufferRef, and the service thread.
#include "tests/support/python.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/buffer_ref.h"
#include "pyhold/defer.h"
#include "pyhold/object_ref.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::BufferRef;
using pyhold::Defer;
using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::ObjectRef;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;
using testing::HasSubstr;
using testing::Not;

static_assert(std::is_nothrow_copy_constructible_v<BufferRef>);
static_assert(std::is_nothrow_move_constructible_v<BufferRef>);
static_assert(std::is_nothrow_destructible_v<BufferRef>);
static_assert(sizeof(BufferRef) <= 16);

// A global variable, borrowed.
PyObject* Global(const char* name) {
  PyObject* value = PyDict_GetItemString(
      PyModule_GetDict(PyImport_AddModule("__main__")), name);
  REQUIRE(value != nullptr);
  return value;
}

// Makes a C function a global of the attached interpreter.
void DefineFunction(PyMethodDef* method) {
  PyObject* function = PyCFunction_New(method, nullptr);
  REQUIRE(function != nullptr);
  REQUIRE(PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")),
                               method->ml_name, function) == 0);
  Py_DECREF(function);
}

ObjectRef Make(const InterpreterView& view, const char* type) {
  return ObjectRef::Steal(view, PyObject_CallNoArgs(Global(type)));
}

// Attached; detaches meanwhile.
void WaitUntilDone(const InterpreterView& view) {
  ThreadStateDetachGuard detached;
  REQUIRE(detached);
  REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
}

// Polls, for at most a minute.
template <typename F>
bool Soon(F condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

std::string FirstLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

// Without a GIL, a reference that is given back on another thread than the one
// which made the object is merged there, when that next runs Python code.
constexpr bool kDestroysElsewhere = !kHasGil;

const std::string kTasks = "/proc/self/task/";

int ServiceThreads() {
  int count = 0;
  DIR* tasks = opendir(kTasks.c_str());
  while (const dirent* entry = readdir(tasks))
    if (FirstLine(kTasks + entry->d_name + "/comm") == "pyhold") ++count;
  closedir(tasks);
  return count;
}

bool IsServiceThread() {
  return FirstLine("/proc/thread-self/comm") == "pyhold";
}

// Lets the values of this thread's calls last, until it exits.
void KeepValues(const InterpreterView& view) {
  static std::mutex mutex;
  // Forgotten on purpose: LeakSanitizer is not to look.
  static auto* states = new std::vector<pyhold_thread_state*>;
  pyhold_thread_state* state;
  REQUIRE(pyhold_thread_state_new(view.raw(), &state) == PYHOLD_OK);
  std::lock_guard<std::mutex> lock(mutex);
  states->push_back(state);
}

// --- Defer() ---

SCENARIO(DeferCalls) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::atomic<int> calls{0}, alive{0};
  struct Counted {  // only moves
    explicit Counted(std::atomic<int>* alive) : alive(alive) { ++*alive; }
    Counted(Counted&& other) noexcept : alive(other.alive) { ++*alive; }
    ~Counted() { --*alive; }
    std::atomic<int>* alive;
  };
  REQUIRE(Defer(view, [&, counted = Counted(&alive)] {
            REQUIRE(IsServiceThread() && Eval("1 + 1") == 2);
            ++calls;
          }) == PYHOLD_OK);
  // Attached all the while, so that it cannot have been called yet.
  if (kHasGil) REQUIRE(calls == 0 && pyhold_deferred_count(view.raw()) == 1);
  WaitUntilDone(view);
  REQUIRE(calls == 1 && alive == 0);

  const auto lvalue = [&calls] { ++calls; };  // copied
  std::thread([&] { REQUIRE(Defer(view, lvalue) == PYHOLD_OK); }).join();
  WaitUntilDone(view);
  REQUIRE(calls == 2);

  struct alignas(256) Aligned {
    std::atomic<int>* calls;
    void operator()() && {
      REQUIRE(reinterpret_cast<std::uintptr_t>(this) % 256 == 0);
      ++*calls;
    }
  };
  REQUIRE(Defer(view, Aligned{&calls}) == PYHOLD_OK);
  WaitUntilDone(view);
  REQUIRE(calls == 3);

  REQUIRE(Defer(InterpreterView(), [] { REQUIRE(false); }) == PYHOLD_EMISUSE);

  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  REQUIRE(Defer(view, [counted = Counted(&alive)] { REQUIRE(false); }) ==
          PYHOLD_OK);
  REQUIRE(alive == 0);
  REQUIRE(pyhold_deferred_leaked() == 1);
  REQUIRE(pyhold_deferred_count(view.raw()) == 0);
  return 0;
}
TEST(DeferredTest, DeferCallsOnceAttachedOrDestroysUncalled) {
  EXPECT_EQ(RunChild("DeferCalls"), Clean());
}

SCENARIO(DeferThrows) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  (void)Defer(view, [] { throw 1; });
  WaitUntilDone(view);
  return 0;
}
TEST(DeferredTest, ExceptionOutOfADeferredFunctionTerminates) {
  EXPECT_EQ(RunChild("DeferThrows").signal, SIGABRT);
}

// --- pyhold_defer() ---

// Each thread's nodes run in its order, also where batches end in between.
SCENARIO(Order) {
  constexpr int kThreads = 4, kEach = 200;
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::vector<int> last(kThreads, -1);
  int calls = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        (void)Defer(view, [&, t, i] {
          REQUIRE(last[t] == i - 1);
          last[t] = i;
          ++calls;
          if (i % 20 == 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(4));
        });
      }
    });
  }
  {
    ThreadStateDetachGuard detached;
    for (auto& thread : threads) thread.join();
  }
  WaitUntilDone(view);
  REQUIRE(calls == kThreads * kEach);
  // What comes while the first of a batch runs, comes after the whole batch.
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) {
    (void)Defer(view, [&, i] {
      order.push_back(i);
      (void)Defer(view, [&, i] { order.push_back(10 + i); });
    });
  }
  WaitUntilDone(view);
  if (kHasGil) REQUIRE((order == std::vector<int>{0, 1, 2, 10, 11, 12}));
  REQUIRE(order.size() == 6);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, RunsInTheOrderInWhichItCame) {
  EXPECT_EQ(RunChild("Order"), Clean());
}

SCENARIO(Reentrance) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  SubInterpreter sub(SubInterpreter::kShared);
  InterpreterView sub_view = InterpreterView::Current();
  PyThreadState* sub_state = PyEval_SaveThread();
  PyEval_RestoreThread(sub.before());
  std::atomic<int> steps{0};
  std::function<void(int)> again = [&](int depth) {
    ++steps;
    if (depth > 0) (void)Defer(view, [&, depth] { again(depth - 1); });
  };
  (void)Defer(view, [&] {
    const PyThreadState* state = Attached();
    again(10);
    REQUIRE(steps == 1);  // the others come later
    {
      ThreadStateGuard guard(view);
      REQUIRE(guard && Attached() == state && Eval("2 + 2") == 4);
    }
    {
      ThreadStateDetachGuard detached;
      REQUIRE(detached);
      std::thread([&] {
        ThreadStateGuard guard(view);
        REQUIRE(guard && Eval("3 + 3") == 6);
      }).join();
    }
    {
      ThreadStateGuard guard(sub_view);
      REQUIRE(guard && Attached()->interp == sub_state->interp);
    }
    REQUIRE(pyhold_deferred_wait(view.raw(), 0) == PYHOLD_EMISUSE);
    // An object of this interpreter's is given back here and now.
    PyObject* list = PyList_New(0);
    ObjectRef ref = ObjectRef::Borrow(view, list);
    ref = ObjectRef();
    REQUIRE(Py_REFCNT(list) == 1);
    Py_DECREF(list);
    REQUIRE(Attached() == state);
  });
  WaitUntilDone(view);
  REQUIRE(steps == 11);
  PyThreadState_Swap(sub_state);
  Py_EndInterpreter(sub_state);
#if PY_VERSION_HEX >= 0x030C0000
  PyEval_RestoreThread(sub.before());
#else
  PyThreadState_Swap(sub.before());
#endif
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, RunMayDeferEnsureAndDetach) {
  EXPECT_EQ(RunChild("Reentrance"), Clean());
}

SCENARIO(ForkInRun) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(
      "import os, warnings\n"
      "warnings.simplefilter('ignore')\n"
      "ended = 0\n"
      "class Forks:\n"
      "    def __del__(self):\n"
      "        global ended\n"
      "        pid = os.fork()\n"
      "        if pid == 0: os._exit(7)\n"
      "        _, status = os.waitpid(pid, 0)\n"
      "        ended += os.WEXITSTATUS(status)\n");
  for (int i = 0; i < 10; ++i) {
    ObjectRef ref = Make(view, "Forks");
    std::thread([&] { ref = ObjectRef(); }).join();
  }
  WaitUntilDone(view);
  REQUIRE(Eval("ended") == 70);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, RunMayFork) { EXPECT_EQ(RunChild("ForkInRun"), Clean()); }

SCENARIO(LeftException) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(
      "import sys\n"
      "seen = []\n"
      "def hook(args): seen.append((args.exc_type, str(args.exc_value)))\n"
      "sys.unraisablehook = hook\n");
  int clean = 0;
  for (int i = 0; i < 3; ++i) {
    (void)Defer(view, [&] {
      if (PyErr_Occurred() == nullptr) ++clean;
      PyErr_SetString(PyExc_ValueError, "left by what was deferred");
    });
  }
  WaitUntilDone(view);
  REQUIRE(clean == 3);
  REQUIRE(Eval("seen == [(ValueError, 'left by what was deferred')] * 3") == 1);
  // The same where an ensure does the work: its own exception is kept.
  pyhold_set_service_thread(false);
  REQUIRE(Soon([] { return ServiceThreads() == 0; }));
  Exec("seen.clear()");
  (void)Defer(view, [&] { PyErr_SetString(PyExc_ValueError, "another"); });
  {
    ThreadStateGuard guard(view);
    REQUIRE(guard && PyErr_Occurred() == nullptr);
  }
  REQUIRE(Eval("seen == [(ValueError, 'another')]") == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, ExceptionLeftByRunGoesToUnraisablehook) {
  EXPECT_EQ(RunChild("LeftException"), Clean());
}

// An ensure that helps runs destructors; a caller of it that has an exception
// pending finds the same one afterwards.
SCENARIO(HelpKeepsTheCallersException) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  pyhold_set_service_thread(false);
  Exec(
      "died = 0\n"
      "class Tracked:\n"
      "    def __del__(self):\n"
      "        global died\n"
      "        died += 1\n");
  ObjectRef ref = Make(view, "Tracked");
  std::thread([&] { ref = ObjectRef(); }).join();
  (void)Defer(view, [] { REQUIRE(PyErr_Occurred() == nullptr); });
  PyErr_SetString(PyExc_KeyError, "the caller's");
  {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
  }
  REQUIRE(PyErr_Occurred() != nullptr);
  REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
  PyErr_Clear();
  {
    ThreadStateGuard guard(view);  // if not before
  }
  REQUIRE(Eval("died") == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, EnsureThatHelpsKeepsItsCallersException) {
  EXPECT_EQ(RunChild("HelpKeepsTheCallersException"), Clean());
}

struct Node {
  pyhold_deferred raw{nullptr, &Run};
  int attached = -1;
  std::thread::id thread;

  static void Run(pyhold_deferred* raw, bool attached) {
    Node* node = reinterpret_cast<Node*>(raw);
    REQUIRE(node->attached == -1);  // once
    node->attached = attached;
    node->thread = std::this_thread::get_id();
  }
};

SCENARIO(TooLate) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Node in_time, again;
  pyhold_defer(view.raw(), &in_time.raw);
  WaitUntilDone(view);
  REQUIRE(in_time.attached == 1);
  REQUIRE(in_time.thread != std::this_thread::get_id());
  in_time.attached = -1;  // it is the callee's again, and may be used again
  pyhold_defer(view.raw(), &in_time.raw);
  WaitUntilDone(view);
  REQUIRE(in_time.attached == 1);

  SubInterpreter sub(SubInterpreter::kShared);
  InterpreterView sub_view = InterpreterView::Current();
  pyhold_defer(sub_view.raw(), &again.raw);
  sub.End();  // the gate, if not the service thread
  REQUIRE(again.attached == 1);
  REQUIRE(pyhold_deferred_leaked() == 0);
  Node late;
  pyhold_defer(sub_view.raw(), &late.raw);
  REQUIRE(late.attached == 0 && late.thread == std::this_thread::get_id());
  REQUIRE(pyhold_deferred_leaked() == 1);

  REQUIRE(Py_FinalizeEx() == 0);
  std::thread([&] {
    Node later;
    pyhold_defer(view.raw(), &later.raw);
    REQUIRE(later.attached == 0 && later.thread == std::this_thread::get_id());
  }).join();
  REQUIRE(pyhold_deferred_leaked() == 2);
  REQUIRE(pyhold_deferred_count(view.raw()) == 0);
  REQUIRE(pyhold_deferred_wait(view.raw(), -1) == PYHOLD_OK);
  return 0;
}
TEST(DeferredTest, TooLateRunsWithFalseAtOnceAndIsCounted) {
  EXPECT_EQ(RunChild("TooLate"), Clean());
}

// The node may own the last reference to the view, and be run at once.
SCENARIO(OwnsItsView) {
  StartPython();
  for (int late = 0; late < 2; ++late) {
    auto* view = new InterpreterView(InterpreterView::Current());
    std::promise<void> over;
    std::thread dropper([&, late] {
      if (late) over.get_future().wait();
      const InterpreterView& its = *view;
      (void)Defer(its, [view = std::unique_ptr<InterpreterView>(view)] {});
    });
    if (!late) {
      dropper.join();
      continue;
    }
    REQUIRE(Py_FinalizeEx() == 0);
    over.set_value();
    dropper.join();
  }
  return 0;
}
TEST(DeferredTest, NodeMayOwnTheLastReferenceToItsView) {
  EXPECT_EQ(RunChild("OwnsItsView"), Clean());
}

SCENARIO(WaitTimesOut) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::promise<void> go_on;
  (void)Defer(view, [&] {
    ThreadStateDetachGuard detached;
    go_on.get_future().wait();
  });
  {
    ThreadStateDetachGuard detached;
    REQUIRE(pyhold_deferred_wait(view.raw(), 20) == PYHOLD_ETIMEDOUT);
    REQUIRE(pyhold_deferred_count(view.raw()) == 1);  // it runs
    go_on.set_value();
    REQUIRE(pyhold_deferred_wait(view.raw(), -1) == PYHOLD_OK);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, WaitEndsWhenTheTimeIsUp) {
  EXPECT_EQ(RunChild("WaitTimesOut"), Clean());
}

// --- Destructors that block, and locks ---

std::atomic<bool> blocks, reported;

PyObject* BlockUntilReported(PyObject*, PyObject*) {
  ThreadStateDetachGuard detached;
  REQUIRE(detached);
  blocks = true;
  REQUIRE(Soon([] { return reported.load(); }));
  Py_RETURN_NONE;
}

SCENARIO(BlockingDestructor) {
  static PyMethodDef block = {"block", BlockUntilReported, METH_NOARGS, ""};
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineFunction(&block);
  Exec(
      "class Blocking:\n"
      "    def __del__(self): block()\n"
      "class Other:\n"
      "    def __del__(self): print('died')\n");
  ObjectRef blocking = Make(view, "Blocking"), other = Make(view, "Other");
  std::thread([&] {
    blocking = ObjectRef();
    other = ObjectRef();
  }).join();
  {
    ThreadStateDetachGuard detached;
    REQUIRE(Soon([] { return blocks.load(); }));
    // The other one waits behind it.
    REQUIRE(pyhold_deferred_wait(view.raw(), 50) == PYHOLD_ETIMEDOUT);
    REQUIRE(pyhold_deferred_count(view.raw()) == 2);
  }
  pyhold_wait_policy policy{};
  policy.warn_after_ms = 50;
  policy.report = [](const pyhold_wait_report* report, void*) {
    REQUIRE(report->holder_count == 1 && report->holds == 0);
    printf("held by \"%s\": %s\n", report->holders[0]->thread_name,
           report->holders[0]->file);
    reported = true;
  };
  pyhold_set_wait_policy(&policy);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(DeferredTest, BlockingDestructorDelaysOthersAndIsReported) {
  if (kDestroysElsewhere) GTEST_SKIP() << "the main thread's destructor";
  ChildResult result = RunChild("BlockingDestructor");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output,
              HasSubstr("held by \"pyhold\": pyhold, for what was deferred"));
  EXPECT_THAT(result.output, HasSubstr("died"));
}

std::mutex bus;
int unsubscribed;  // under `bus`

PyObject* Unsubscribe(PyObject*, PyObject*) {
  ThreadStateDetachGuard detached;
  std::lock_guard<std::mutex> lock(bus);
  ++unsubscribed;
  Py_RETURN_NONE;
}

// argument: 0: objects that a detached thread gave back; 1: values that an
// exited thread had in a threading.local.
SCENARIO(GuardsRunNoDestructors) {
  constexpr int kRounds = 30;
  static PyMethodDef unsubscribe = {"unsubscribe", Unsubscribe, METH_NOARGS,
                                    ""};
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineFunction(&unsubscribe);
  Exec(
      "import threading\n"
      "local = threading.local()\n"
      "class Session:\n"
      "    def __del__(self): unsubscribe()\n"
      "def keep(): local.session = Session()\n");
  PyObject* keep = Global("keep");
  std::vector<ObjectRef> sessions;
  for (int i = 0; i < kRounds; ++i) sessions.push_back(Make(view, "Session"));
  auto publish = [&] {
    std::lock_guard<std::mutex> lock(bus);
    for (int i = 0; i < 5; ++i) {
      ThreadStateGuard guard(view);
      REQUIRE(guard && Eval("1 + 1") == 2);
    }
  };
  {
    ThreadStateDetachGuard detached;
    std::promise<void> done;
    std::thread([&] {  // has a kept state; the others make new ones
      for (int round = 0; round < kRounds; ++round) {
        std::thread([&] {
          if (argument == 0) {
            sessions[round] = ObjectRef();
          } else {
            KeepValues(view);
            ThreadStateGuard guard(view);
            Py_XDECREF(PyObject_CallNoArgs(keep));
          }
        }).join();
        publish();
        std::thread(publish).join();
      }
    })
        .join();
    REQUIRE(Soon([&] {
      if (kDestroysElsewhere) {
        ThreadStateGuard guard(view);
        Exec("pass");
      }
      std::lock_guard<std::mutex> lock(bus);
      return unsubscribed == kRounds;
    }));
  }
  sessions.clear();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, GuardsRunNobodysDestructorsWhoseLockTheCallerHas) {
  EXPECT_EQ(RunChild("GuardsRunNoDestructors", 0), Clean());
  EXPECT_EQ(RunChild("GuardsRunNoDestructors", 1), Clean());
}

// --- What waits is bounded ---

// Python makes buffers and hands them to a thread that is never attached, which
// drops them. argument: 1: a destructor sleeps for a millisecond; 2: the thread
// has the buffers, not the objects.
SCENARIO(Growth) {
  constexpr int kBuffers = 6000;
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(
      "import time\n"
      "alive = most = 0\n"
      "class Buffer(bytearray):\n"
      "    def __init__(self):\n"
      "        super().__init__(1 << 12)\n"
      "        global alive, most\n"
      "        alive += 1\n"
      "        most = max(most, alive)\n"
      "    def __del__(self):\n"
      "        global alive\n"
      "        if sleep_us: time.sleep(sleep_us / 1e6)\n"
      "        alive -= 1\n");
  Exec(argument & 1 ? "sleep_us = 1000" : "sleep_us = 0");
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::shared_ptr<void>> sent;
  bool stop = false;
  std::thread sender([&] {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stop || !sent.empty(); });
      if (sent.empty()) return;
      std::vector<std::shared_ptr<void>> mine;
      mine.swap(sent);
      lock.unlock();
      changed.notify_all();
      mine.clear();
      lock.lock();
    }
  });
  // Few of the slow ones, which take as long as they sleep.
  const int count = argument & 1 ? kBuffers / 8 : kBuffers;
  for (int i = 0; i < count; ++i) {
    ObjectRef object = Make(view, "Buffer");
    std::shared_ptr<void> buffer;
    if (argument & 2)
      buffer = std::make_shared<BufferRef>(
          BufferRef::FromObject(view, object.get()));
    else
      buffer = std::make_shared<ObjectRef>(object);
    object = ObjectRef();
    ThreadStateDetachGuard detached;
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return sent.size() < 8; });
    sent.push_back(std::move(buffer));
    changed.notify_all();
  }
  {
    ThreadStateDetachGuard detached;
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    changed.notify_all();
    sender.join();
  }
  WaitUntilDone(view);
  printf("at most %ld of %d were alive\n", Eval("most"), count);
  REQUIRE(Eval("alive") == 0);
  // Slow destructors pile up: nothing waits for them unasked.
  if (!(argument & 1)) REQUIRE(Eval("most") < kBuffers / 2);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, WhatWaitsIsFreedSoonWhileNobodyEnsures) {
  for (int way = 0; way < 4; ++way)
    EXPECT_EQ(RunChild("Growth", way), Clean()) << way;
}

// --- The service thread ---

SCENARIO(EndsWhenIdle) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  for (int round = 0; round < 5; ++round) {
    int calls = 0;
    for (int i = 0; i < 100; ++i) {
      (void)Defer(view, [&] {
        REQUIRE(IsServiceThread() && ServiceThreads() == 1);
        ++calls;
      });
    }
    WaitUntilDone(view);
    REQUIRE(calls == 100);
    // Attached: it needs the GIL no more.
    REQUIRE(Soon([] { return ServiceThreads() == 0; }));
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, ServiceThreadEndsWhenIdleAndComesBack) {
  EXPECT_EQ(RunChild("EndsWhenIdle"), Clean());
}

// It has no thread state while it has nothing to do.
SCENARIO(IdleServiceDoesNotShow) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec("import sys");
  for (int round = 0; round < 20; ++round) {
    (void)Defer(view, [] { REQUIRE(Eval("len(sys._current_frames())") <= 2); });
    WaitUntilDone(view);
    REQUIRE(Soon([] {
      ThreadStateDetachGuard detached;
      return true;
    }));
    int states = 0;
    PyThreadState* state = PyInterpreterState_ThreadHead(Attached()->interp);
    for (; state != nullptr; state = PyThreadState_Next(state)) ++states;
    REQUIRE(states <= (kHasGil ? 1 : 2));
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, IdleServiceThreadHasNoThreadState) {
  EXPECT_EQ(RunChild("IdleServiceDoesNotShow"), Clean());
}

SCENARIO(ForkDoesNotWarn) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(
      "import os, warnings\n"
      "def fork():\n"
      "    with warnings.catch_warnings(record=True) as seen:\n"
      "        warnings.simplefilter('always')\n"
      "        pid = os.fork()\n"
      "        if pid == 0: os._exit(0)\n"
      "        os.waitpid(pid, 0)\n"
      "    for w in seen: print(w.message)\n"
      "    return len(seen)\n");
  for (int round = 0; round < 60; ++round) {
    int calls = 0;
    (void)Defer(view, [&] { ++calls; });
    WaitUntilDone(view);
    REQUIRE(calls == 1);
    // At once, while it lingers, and as it ends.
    static constexpr int kPausesMs[] = {0, 1, 10, 29, 30, 31, 45};
    std::this_thread::sleep_for(
        std::chrono::milliseconds(kPausesMs[round % 7]));
    REQUIRE(Eval("fork()") == 0);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, ForkDoesNotWarnOfTheServiceThread) {
  EXPECT_EQ(RunChild("ForkDoesNotWarn"), Clean());
}

// argument: what the service thread does at the fork. 0: it never was; 1: it
// lingers; 2: it has ended; 3: it runs something.
SCENARIO(StartsAnewInAForkChild) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(
      "died = 0\n"
      "class Tracked:\n"
      "    def __del__(self):\n"
      "        global died\n"
      "        died += 1\n");
  std::promise<void> runs, go_on;
  if (argument > 0) {
    (void)Defer(view, [] {});
    WaitUntilDone(view);
  }
  if (argument == 2) REQUIRE(Soon([] { return ServiceThreads() == 0; }));
  if (argument == 3) {
    (void)Defer(view, [&] {
      ThreadStateDetachGuard detached;
      runs.set_value();
      go_on.get_future().wait();
    });
    ThreadStateDetachGuard detached;
    runs.get_future().wait();
  }
  // A thread that has exited leaves its state, too.
  {
    ThreadStateDetachGuard detached;
    std::thread([&] { ThreadStateGuard guard(view); }).join();
  }
  for (int round = 0; round < 5; ++round) {
    PyOS_BeforeFork();
    pid_t pid = fork();
    if (pid == 0) {
      PyOS_AfterFork_Child();
      for (int i = 1; i <= 3; ++i) {
        ObjectRef ref = Make(view, "Tracked");
        std::thread([&] { ref = ObjectRef(); }).join();
        REQUIRE(Soon([i] {
          ThreadStateDetachGuard detached;
          ThreadStateGuard guard(InterpreterView::Main());
          return Eval("died") == i;
        }));
        if (i == 2) REQUIRE(Soon([] { return ServiceThreads() == 0; }));
      }
      _exit(0);
    }
    PyOS_AfterFork_Parent();
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    if (status != 0) printf("the child's status is %d\n", status);
    REQUIRE(status == 0);
  }
  // And in the parent it works as before.
  if (argument == 3) go_on.set_value();
  ObjectRef ref = Make(view, "Tracked");
  std::thread([&] { ref = ObjectRef(); }).join();
  WaitUntilDone(view);
  REQUIRE(Eval("died") == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, ServiceThreadStartsAnewInAForkChild) {
  for (int at_fork = 0; at_fork <= 3; ++at_fork)
    EXPECT_EQ(RunChild("StartsAnewInAForkChild", at_fork), Clean()) << at_fork;
}

// From now on the calling thread can start no other, as under RLIMIT_NPROC.
void ForbidThreads() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program = {sizeof filter / sizeof *filter, filter};
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) _exit(77);
}

// argument: 0: the system refuses a thread; 1: the program does.
SCENARIO(NoServiceThread) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  if (argument == 1) pyhold_set_service_thread(false);
  for (int round = 0; round < 3; ++round) {
    int calls = 0;
    std::thread([&] {
      if (argument == 0) ForbidThreads();
      for (int i = 0; i < 10; ++i)
        (void)Defer(view, [&] {
          REQUIRE(!IsServiceThread());
          ++calls;
        });
    }).join();
    REQUIRE(calls == 0);
    {
      ThreadStateDetachGuard detached;  // is no ensure
      REQUIRE(pyhold_deferred_wait(view.raw(), 20) == PYHOLD_ETIMEDOUT);
    }
    REQUIRE(calls == 0);
    // A part each time.
    while (calls < 10) ThreadStateGuard guard(view);
    WaitUntilDone(view);
  }
  // What is brought when it may be had again, brings it.
  pyhold_set_service_thread(true);
  bool by_service = false;
  (void)Defer(view, [&] { by_service = IsServiceThread(); });
  WaitUntilDone(view);
  REQUIRE(by_service);
  // What a helper does not get to is the gate's.
  pyhold_set_service_thread(false);
  int late_calls = 0;
  std::thread([&] {
    if (argument == 0) ForbidThreads();
    for (int i = 0; i < 10; ++i) (void)Defer(view, [&] { ++late_calls; });
  }).join();
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(late_calls == 10 && pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(DeferredTest, WithoutAServiceThreadTheNextOutermostEnsureHelps) {
  EXPECT_EQ(RunChild("NoServiceThread", 1), Clean());
  ChildResult result = RunChild("NoServiceThread", 0);
  if (result.exit_code == 77) GTEST_SKIP() << "no seccomp here";
  EXPECT_EQ(result, Clean());
}

std::atomic<int> handled_elsewhere, handled;
pthread_t main_thread;

PyObject* Handle(PyObject*, PyObject*) {
  ++handled;
  if (!pthread_equal(pthread_self(), main_thread)) ++handled_elsewhere;
  Py_RETURN_NONE;
}

SCENARIO(Signals) {
  static PyMethodDef handle = {"handle", Handle, METH_NOARGS, ""};
  StartPython(/*with_signal_handlers=*/true);
  InterpreterView view = InterpreterView::Current();
  main_thread = pthread_self();
  DefineFunction(&handle);
  Exec(
      "import os, signal\n"
      "signal.signal(signal.SIGUSR1, lambda *args: handle())\n");
  // The thread that starts the service thread has some blocked, and an own name.
  for (int i = 0; i < 20; ++i) {
    (void)Defer(view, [&] {
      REQUIRE(IsServiceThread());
      sigset_t blocked;
      REQUIRE(pthread_sigmask(SIG_BLOCK, nullptr, &blocked) == 0);
      for (int s : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD,
                    SIGPIPE, SIGWINCH, SIGPROF, SIGRTMIN})
        REQUIRE(sigismember(&blocked, s) == 1);
      // A crash here is reported, as one on any other thread.
      for (int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL})
        REQUIRE(sigismember(&blocked, s) == 0);
      Exec("os.kill(os.getpid(), signal.SIGUSR1)");
    });
    ThreadStateDetachGuard detached;
    REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
  }
  REQUIRE(Soon([] {
    Exec("pass");
    return handled > 0;
  }));
  REQUIRE(handled_elsewhere == 0);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, SignalsAreNotForTheServiceThread) {
  EXPECT_EQ(RunChild("Signals"), Clean());
}

PyObject* Crash(PyObject*, PyObject*) {
  static volatile int* volatile nowhere;
  return PyLong_FromLong(*nowhere);
}

SCENARIO(CrashIsReported) {
  static PyMethodDef method = {"crash", Crash, METH_NOARGS, ""};
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineFunction(&method);
  Exec(
      "import faulthandler\n"
      "faulthandler.enable()\n"
      "class Crashes:\n"
      "    def __del__(self): crash()\n");
  ObjectRef ref = Make(view, "Crashes");
  std::thread([&] { ref = ObjectRef(); }).join();
  WaitUntilDone(view);
  return 0;
}
TEST(DeferredTest, CrashOfWhatWasDeferredIsReported) {
  if (kDestroysElsewhere) GTEST_SKIP() << "the main thread's crash";
  ChildResult result = RunChild("CrashIsReported");
  EXPECT_FALSE(result.clean());  // SIGSEGV, or as AddressSanitizer ends it
  EXPECT_THAT(result.output,
              HasSubstr("Fatal Python error: Segmentation fault"));
  EXPECT_THAT(result.output, HasSubstr("in __del__"));
}

// Nobody's exit waits for the GIL; what exited threads had is given back soon.
SCENARIO(ExitsJoinedWithTheGil) {
  constexpr int kThreads = 100;
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(
      "import threading\n"
      "local = threading.local()\n"
      "died = 0\n"
      "class Value:\n"
      "    def __del__(self):\n"
      "        global died\n"
      "        died += 1\n"
      "def keep(): local.value = Value()\n");
  PyObject* keep = Global("keep");
  std::atomic<int> ready{0};
  std::promise<void> exit;
  std::shared_future<void> may_exit = exit.get_future().share();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, may_exit] {
      KeepValues(view);
      {
        ThreadStateGuard guard(view);
        REQUIRE(guard);
        Py_XDECREF(PyObject_CallNoArgs(keep));
      }
      ++ready;
      may_exit.wait();
    });
  }
  {
    ThreadStateDetachGuard detached;
    REQUIRE(Soon([&] { return ready == kThreads; }));
  }
  exit.set_value();
  for (auto& thread : threads) thread.join();  // attached
  REQUIRE(Soon([&] {
    ThreadStateDetachGuard detached;
    ThreadStateGuard guard(view);
    return Eval("died") == kThreads;
  }));
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, HundredExitsAreJoinedWithTheGilHeld) {
  if (!kHasGil) GTEST_SKIP() << "an exit clears its own state";
  EXPECT_EQ(RunChild("ExitsJoinedWithTheGil"), Clean());
}

// --- The end ---

// Counts calls of it, and deaths without one.
struct Tally {
  std::atomic<int> made{0}, called{0}, uncalled{0};
  class Call {
   public:
    explicit Call(Tally* tally) : tally_(tally) { ++tally_->made; }
    Call(Call&& other) noexcept
        : tally_(std::exchange(other.tally_, nullptr)) {}
    ~Call() {
      if (tally_ != nullptr) ++tally_->uncalled;
    }
    void operator()() {
      REQUIRE(Attached() != nullptr && Eval("40 + 2") == 42);
      ++std::exchange(tally_, nullptr)->called;
    }

   private:
    Tally* tally_;
  };
};

std::atomic<int> died;

PyObject* Died(PyObject*, PyObject*) {
  ++died;
  Py_RETURN_NONE;
}

SCENARIO(SubinterpretersEnd) {
  constexpr int kRounds = 25, kThreads = 3, kEach = 20;
  static PyMethodDef method = {"died", Died, METH_NOARGS, ""};
  StartPython();
  InterpreterView view = InterpreterView::Current();
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t leaked = pyhold_deferred_leaked();
    died = 0;
    Tally tally;
    SubInterpreter sub(argument == 0 ? SubInterpreter::kShared
                                     : SubInterpreter::kOwn);
    InterpreterView sub_view = InterpreterView::Current();
    DefineFunction(&method);
    Exec("class Tracked:\n    def __del__(self, died=died): died()\n");
    std::vector<ObjectRef> objects;
    for (int i = 0; i < kThreads * kEach; ++i)
      objects.push_back(Make(sub_view, "Tracked"));
    std::atomic<int> started{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        ++started;
        for (int i = 0; i < kEach; ++i) {
          objects[t * kEach + i] = ObjectRef();
          (void)Defer(sub_view, Tally::Call(&tally));
          if (round % 2 == 0) std::this_thread::yield();
        }
      });
    }
    while (started < kThreads) std::this_thread::yield();
    sub.End();
    {
      ThreadStateDetachGuard detached;
      for (auto& thread : threads) thread.join();
    }
    REQUIRE(tally.called + tally.uncalled == tally.made);
    REQUIRE(tally.made == kThreads * kEach);
    REQUIRE(pyhold_deferred_count(sub_view.raw()) == 0);
    REQUIRE(static_cast<int>(pyhold_deferred_leaked() - leaked) ==
            tally.uncalled + kThreads * kEach - died);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, SubinterpretersEndWhileWorkIsDeferredToThem) {
  EXPECT_EQ(RunChild("SubinterpretersEnd", 0), Clean());
  if (SubInterpreter::kHasOwnGil) {
    EXPECT_EQ(RunChild("SubinterpretersEnd", 1), Clean());
  }
}

SCENARIO(FinalizesWhileTheServiceRuns) {
  constexpr int kThreads = 4;
  for (int round = 0; round < 10; ++round) {
    StartPython();
    InterpreterView view = InterpreterView::Current();
    const std::uint64_t leaked = pyhold_deferred_leaked();
    Tally tally;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        while (tally.uncalled < 50) {
          (void)Defer(view, Tally::Call(&tally));
          if (tally.made - tally.called > 1000) std::this_thread::yield();
        }
      });
    }
    {
      ThreadStateDetachGuard detached;
      REQUIRE(Soon([&] { return tally.called > 100; }));
    }
    REQUIRE(Py_FinalizeEx() == 0);
    for (auto& thread : threads) thread.join();
    REQUIRE(tally.called + tally.uncalled == tally.made);
    REQUIRE(static_cast<int>(pyhold_deferred_leaked() - leaked) ==
            tally.uncalled);
    REQUIRE(pyhold_deferred_count(view.raw()) == 0);
  }
  return 0;
}
TEST(DeferredTest, FinalizesWhileTheServiceThreadRuns) {
  EXPECT_EQ(RunChild("FinalizesWhileTheServiceRuns"), Clean());
}

// --- BufferRef ---

SCENARIO(BufferOwns) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(
      "array = bytearray(b'0123456789')\n"
      "def is_exported():\n"
      "    try: array.append(0)\n"
      "    except BufferError: return True\n"
      "    array.pop()\n"
      "    return False\n");
  {
    BufferRef a = BufferRef::FromObject(view, Global("array"));
    REQUIRE(a && a.status() == PYHOLD_OK && a.view().id() == 0);
    REQUIRE(a.size() == 10 && memcmp(a.data(), "0123456789", 10) == 0);
    REQUIRE(a.get()->obj == Global("array") && !a.get()->readonly);
    BufferRef b = a, c = std::move(a);
    REQUIRE(!a && a.data() == nullptr && a.size() == 0 && a.get() == nullptr);
    REQUIRE(a.status() == PYHOLD_EMISUSE && !a.view());
    REQUIRE(b.data() == c.data());
    a = b;
    BufferRef& same = a;
    a = same;
    b = BufferRef();
    c = std::move(a);
    REQUIRE(Eval("is_exported()") == 1);
    // Not attached: read, copied and given back.
    std::thread([&] {
      BufferRef d = c;
      REQUIRE(d.size() == 10 && memcmp(d.data(), "0123456789", 10) == 0);
    }).join();
    REQUIRE(pyhold_deferred_count(view.raw()) == 0);
    REQUIRE(Eval("is_exported()") == 1);
  }
  REQUIRE(Eval("is_exported()") == 0);  // attached: at once
  {
    BufferRef a = BufferRef::FromObject(view, Global("array"));
    std::thread([moved = std::move(a)] {}).join();
    WaitUntilDone(view);
    REQUIRE(Eval("is_exported()") == 0);
  }
  {  // shape and strides may point into the buffer itself
    BufferRef a = BufferRef::FromObject(view, Global("array"), PyBUF_FULL_RO);
    BufferRef b = std::move(a);
    REQUIRE(b.get()->ndim == 1 && b.get()->shape[0] == 10);
    REQUIRE(b.get()->strides[0] == 1);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(DeferredTest, BufferRefOwnsAndGivesBack) {
  EXPECT_EQ(RunChild("BufferOwns"), Clean());
}

SCENARIO(BufferFails) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  REQUIRE(!BufferRef() && BufferRef().status() == PYHOLD_EMISUSE);
  BufferRef none = BufferRef::FromObject(view, Py_None);
  REQUIRE(!none && none.status() == PYHOLD_EMISUSE);
  REQUIRE(PyErr_ExceptionMatches(PyExc_TypeError));
  PyErr_Clear();
  PyObject* bytes = PyBytes_FromString("constant");
  const Py_ssize_t references = Py_REFCNT(bytes);
  BufferRef constant = BufferRef::FromObject(view, bytes, PyBUF_WRITABLE);
  REQUIRE(!constant && constant.status() == PYHOLD_EMISUSE);
  REQUIRE(PyErr_ExceptionMatches(PyExc_BufferError));
  PyErr_Clear();
  BufferRef nowhere = BufferRef::FromObject(InterpreterView(), bytes);
  REQUIRE(!nowhere && nowhere.status() == PYHOLD_EMISUSE);
  REQUIRE(PyErr_ExceptionMatches(PyExc_RuntimeError));
  PyErr_Clear();
  REQUIRE(Py_REFCNT(bytes) == references);
  Py_DECREF(bytes);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(DeferredTest, BufferRefIsEmptyAndSetsPythonsErrorOnFailure) {
  EXPECT_EQ(RunChild("BufferFails"), Clean());
}

BufferRef a_static_buffer;
SCENARIO(BufferOutlivesTheRuntime) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::vector<BufferRef> buffers;
  for (const char* code : {"b'short'", "b'long' * 100000",
                           "bytearray(b'array' * 1000)", "b'last' + b'one'"}) {
    PyObject* dict = PyModule_GetDict(PyImport_AddModule("__main__"));
    PyObject* object = PyRun_String(code, Py_eval_input, dict, dict);
    REQUIRE(object != nullptr);
    buffers.push_back(BufferRef::FromObject(view, object));
    Py_DECREF(object);
  }
  a_static_buffer = std::move(buffers.back());
  buffers.pop_back();
  REQUIRE(Py_FinalizeEx() == 0);
  auto starts = [](const BufferRef& buffer, const char* with) {
    return memcmp(buffer.data(), with, strlen(with)) == 0;
  };
  std::thread([&] {
    REQUIRE(buffers[0].size() == 5 && starts(buffers[0], "short"));
    REQUIRE(buffers[1].size() == 400000 && starts(buffers[1], "longlong"));
    REQUIRE(buffers[2].size() == 5000 && starts(buffers[2], "arrayarray"));
  }).join();
  StartPython();  // the same address, and another life
  REQUIRE(InterpreterView::Current());
  REQUIRE(starts(buffers[0], "short"));
  buffers.clear();
  REQUIRE(pyhold_deferred_leaked() == 3);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(starts(a_static_buffer, "lastone"));
  return 0;
}
TEST(DeferredTest, BufferRefMayOutliveTheRuntime) {
  EXPECT_EQ(RunChild("BufferOutlivesTheRuntime"), Clean());
}

SCENARIO(BufferAcrossInterpreters) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  SubInterpreter sub(argument == 0 ? SubInterpreter::kShared
                                   : SubInterpreter::kOwn);
  InterpreterView sub_view = InterpreterView::Current();
  auto export_one = [&] {
    PyObject* object = PyByteArray_FromStringAndSize("0123456789", 10);
    BufferRef buffer = BufferRef::FromObject(sub_view, object);
    Py_DECREF(object);
    return buffer;
  };
  BufferRef elsewhere = export_one(), late = export_one(),
            meanwhile = export_one();
  PyThreadState* sub_state = PyEval_SaveThread();
  {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    elsewhere = BufferRef();  // attached to another interpreter: deferred
  }
  REQUIRE(pyhold_deferred_wait(sub_view.raw(), 60000) == PYHOLD_OK);
  std::thread([&] { meanwhile = BufferRef(); }).join();
  PyEval_RestoreThread(sub_state);
  sub.End();
  REQUIRE(pyhold_deferred_leaked() == 0);
  REQUIRE(late.size() == 10 && memcmp(late.data(), "0123456789", 10) == 0);
  late = BufferRef();
  REQUIRE(pyhold_deferred_leaked() == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(DeferredTest, BufferRefAcrossInterpreters) {
  EXPECT_EQ(RunChild("BufferAcrossInterpreters", 0), Clean());
  if (SubInterpreter::kHasOwnGil) {
    EXPECT_EQ(RunChild("BufferAcrossInterpreters", 1), Clean());
  }
}

// Copies of one buffer come and go on many threads: it is released once.
SCENARIO(BufferIsReleasedOnce) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
#if PY_VERSION_HEX >= 0x030C0000
  Exec(
      "released = 0\n"
      "class Exporter:\n"
      "    def __buffer__(self, flags): return memoryview(b'exported')\n"
      "    def __release_buffer__(self, view):\n"
      "        global released\n"
      "        released += 1\n");
#else
  Exec(
      "released = 0\n"
      "class Exporter(bytes):\n"
      "    def __new__(cls): return super().__new__(cls, b'exported')\n"
      "    def __del__(self):\n"
      "        global released\n"
      "        released += 1\n");
#endif
  for (int round = 0; round < 20; ++round) {
    Exec("released = 0");
    PyObject* exporter = PyObject_CallNoArgs(Global("Exporter"));
    REQUIRE(exporter != nullptr);
    BufferRef buffer = BufferRef::FromObject(view, exporter);
    Py_DECREF(exporter);
    REQUIRE(buffer.size() == 8);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&view, t, mine = buffer]() mutable {
        for (int i = 0; i < 200; ++i) {
          BufferRef copy = mine;
          REQUIRE(memcmp(copy.data(), "exported", 8) == 0);
        }
        if (t % 2 == 0) return;
        ThreadStateGuard guard(view);
        mine = BufferRef();
      });
    }
    buffer = BufferRef();
    {
      ThreadStateDetachGuard detached;
      for (auto& thread : threads) thread.join();
    }
    WaitUntilDone(view);
    REQUIRE(Eval("released") == 1);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(DeferredTest, BufferIsReleasedOnceWithItsLastCopy) {
  EXPECT_EQ(RunChild("BufferIsReleasedOnce"), Clean());
}

}  // namespace
