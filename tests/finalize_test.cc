// Finalization of real interpreters, each in a child process.
#include "tests/support/python.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;
using testing::HasSubstr;

// Returns when the gate of interpreter `id` has closed.
void AwaitClose(std::int64_t id) {
  while (InterpreterRef::Lookup(id)) std::this_thread::yield();
}

// Enough Python for CPython to switch threads several times.
void CallPythonForAWhile() {
  REQUIRE(Eval("sum(i for i in range(300000)) > 0") == 1);
}

bool ThreadSleeps(int thread_id) {
  std::ifstream stat("/proc/self/task/" + std::to_string(thread_id) + "/stat");
  std::string pid, name;
  char state = '?';
  stat >> pid >> name >> state;
  return state == 'S';
}

// Has fn(capsule) called when modules are torn down; `with`, not NULL, is what the
// capsule has.
void CallAtTearDown(PyCapsule_Destructor fn, void* with) {
  PyObject* capsule = PyCapsule_New(with, nullptr, fn);
  PyObject_SetAttrString(PyImport_AddModule("__main__"), "capsule", capsule);
  Py_DECREF(capsule);
}

// A thread that is inside a guard sees the gate closed, and still gets in.
SCENARIO(IsClosed) {
  StartPython();
  REQUIRE(InterpreterView().IsClosed() && pyhold_view_is_closed(nullptr));
  InterpreterView view = InterpreterView::Current();
  REQUIRE(!view.IsClosed());
  std::promise<void> inside;
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    ThreadStateDetachGuard detached;
    inside.set_value();
    while (!view.IsClosed()) std::this_thread::yield();
    ThreadStateGuard nested(view);
    REQUIRE(nested && view.IsClosed());
    std::thread([&] {
      ThreadStateGuard late(view);
      REQUIRE(late.status() == PYHOLD_EFINALIZING);
    }).join();
  });
  {
    ThreadStateDetachGuard detached;
    inside.get_future().wait();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  holder.join();
  REQUIRE(view.IsClosed());
  StartPython();  // another interpreter, with a gate of its own
  REQUIRE(view.IsClosed() && !InterpreterView::Current().IsClosed());
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FinalizeTest, ViewTellsWhenTheGateHasClosed) {
  EXPECT_EQ(RunChild("IsClosed"), Clean());
}

// --- Functions that are called attached and detached ---

// Its destructor joins a thread that needs the GIL.
class Joiner {
 public:
  explicit Joiner(const InterpreterView& view)
      : thread_([view] {
          ThreadStateGuard guard(view);
          if (guard) CallPythonForAWhile();
        }) {}
  ~Joiner() {
    // On 3.11 a detached thread reads whichever thread's state is attached.
    int was_attached = PyGILState_Check();
    PyThreadState* before = was_attached ? Attached() : nullptr;
    {
      ThreadStateDetachGuard detached;
      REQUIRE(detached.IsDetached());
      REQUIRE(detached || detached.status() == PYHOLD_EDETACHED);
      thread_.join();
    }
    REQUIRE(PyGILState_Check() == was_attached);
    REQUIRE(!was_attached || Attached() == before);
  }

 private:
  std::thread thread_;
};

SCENARIO(DestructorDetaches) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  {
    Joiner joiner(view);
  }  // attached
  {
    ThreadStateDetachGuard detached;
    std::thread([&] {
      {
        Joiner joiner(view);
      }  // never attached
      ThreadStateGuard guard(view);
      {
        Joiner joiner(view);
      }
      ThreadStateDetachGuard again;
      Joiner joiner(view);
    }).join();
  }
  // In the middle of finalization, attached; then without Python.
  CallAtTearDown(
      [](PyObject* capsule) {
        delete static_cast<Joiner*>(PyCapsule_GetPointer(capsule, nullptr));
        puts("deleted");
      },
      new Joiner(view));
  REQUIRE(Py_FinalizeEx() == 0);
  {
    Joiner joiner(view);
  }
  return 0;
}
TEST(FinalizeTest, DestructorMayDetachWhetherAttachedOrNot) {
  ChildResult result = RunChild("DestructorDetaches");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("deleted"));
}

// The interpreter meets pyhold after its atexit callbacks.
SCENARIO(DetachRefused) {
  StartPython();
  Exec("import threading");
  static int nothing;
  CallAtTearDown(
      [](PyObject*) {
        ThreadStateDetachGuard detached;
        REQUIRE(detached.status() == PYHOLD_EFINALIZING);
        REQUIRE(!detached.IsDetached() && Attached() != nullptr);
        puts("refused");
      },
      &nothing);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FinalizeTest, RefusedDetachLeavesTheThreadAttached) {
  ChildResult result = RunChild("DetachRefused");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("refused"));
}

// --- What delays finalization, and what does not ---

enum Way {
  kGuard,
  kCApi,
  kHold,
  kHoldTakenOver,
  kDetached,
  kNotDaemonAgain,
  kWays
};
const char* const kWayNames[] = {"Guard",         "CApi",     "Hold",
                                 "HoldTakenOver", "Detached", "NotDaemonAgain"};

// Holds `view` in one way, calls `inside` while it does, attached.
template <typename F>
void HoldIn(Way way, const InterpreterView& view, F inside) {
  switch (way) {
    case kGuard: {
      ThreadStateGuard guard(view);
      REQUIRE(guard);
      inside();
      return;
    }
    case kCApi: {
      REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
      inside();
      pyhold_thread_release();
      return;
    }
    case kHold: {  // alone: the guard does not protect
      InterpreterRef ref = view.Hold();
      REQUIRE(ref);
      ThreadStateGuard guard(ref);
      REQUIRE(guard);
      REQUIRE(pyhold_thread_set_daemon(true) == PYHOLD_OK);
      inside();
      return;
    }
    case kHoldTakenOver: {
      InterpreterRef ref = view.Hold();
      REQUIRE(ref);
      ThreadStateGuard guard(std::move(ref));
      REQUIRE(guard);
      inside();
      return;
    }
    case kDetached: {
      ThreadStateGuard guard(view);
      REQUIRE(guard);
      REQUIRE(pyhold_thread_set_daemon(true) == PYHOLD_OK);
      {
        ThreadStateDetachGuard detached(pyhold::kHolding);  // by itself
        REQUIRE(detached);
        ThreadStateGuard again(view);
        REQUIRE(again);
        inside();
      }
      REQUIRE(pyhold_thread_set_daemon(true) == PYHOLD_OK);
      return;
    }
    case kNotDaemonAgain: {
      ThreadStateGuard guard(view);
      REQUIRE(guard);
      REQUIRE(pyhold_thread_set_daemon(true) == PYHOLD_OK);
      REQUIRE(pyhold_thread_set_daemon(false) == PYHOLD_OK);
      inside();
      return;
    }
    case kWays:
      break;
  }
}

SCENARIO(FinalizeWaitsFor) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::atomic<bool> finalized{false};
  std::promise<void> inside;
  std::thread holder([&] {
    HoldIn(static_cast<Way>(argument), view, [&] {
      inside.set_value();
      {
        ThreadStateDetachGuard detached;
        AwaitClose(0);
      }
      CallPythonForAWhile();
      REQUIRE(!finalized);
    });
    REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
  });
  PyThreadState* saved = PyEval_SaveThread();
  inside.get_future().wait();
  PyEval_RestoreThread(saved);
  REQUIRE(Py_FinalizeEx() == 0);
  finalized = true;
  holder.join();
  return 0;
}

SCENARIO(EndInterpreterWaitsFor) {
  StartPython();
  InterpreterView main_view = InterpreterView::Current();
  SubInterpreter sub(argument / kWays == 0 ? SubInterpreter::kShared
                                           : SubInterpreter::kOwn);
  InterpreterView view = InterpreterView::Current();
  std::atomic<bool> ended{false};
  std::promise<void> inside;
  std::thread holder([&] {
    HoldIn(static_cast<Way>(argument % kWays), view, [&] {
      inside.set_value();
      {
        ThreadStateDetachGuard detached;
        AwaitClose(view.id());
      }
      CallPythonForAWhile();
      REQUIRE(!ended);
    });
    REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
    REQUIRE(ThreadStateGuard(main_view));
  });
  PyThreadState* saved = PyEval_SaveThread();
  inside.get_future().wait();
  PyEval_RestoreThread(saved);
  sub.End();
  ended = true;
  {
    ThreadStateDetachGuard detached;
    holder.join();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}

class WayTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, WayTest, testing::Range(0, int{kWays}),
                         [](const auto& info) {
                           return kWayNames[info.param];
                         });

TEST_P(WayTest, DelaysFinalizeEx) {
  EXPECT_EQ(RunChild("FinalizeWaitsFor", GetParam()), Clean());
}

TEST_P(WayTest, DelaysEndInterpreter) {
  if (GetParam() == kDetached && !kHasGil)
    GTEST_SKIP() << "at the end it is a daemon, which a GIL alone protects";
  EXPECT_EQ(RunChild("EndInterpreterWaitsFor", GetParam()), Clean());
  if (SubInterpreter::kHasOwnGil) {
    EXPECT_EQ(RunChild("EndInterpreterWaitsFor", kWays + GetParam()), Clean());
  }
}

SCENARIO(ViewsDoNotDelay) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  InterpreterView copy = view;
  SubInterpreter sub(SubInterpreter::kShared);
  InterpreterView sub_view = InterpreterView::Current();
  sub.End();
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(sub_view.Hold().status() == PYHOLD_EFINALIZING);
  REQUIRE(view.Hold().status() == PYHOLD_EFINALIZING);
  REQUIRE(copy.id() == 0);
  return 0;
}
TEST(FinalizeTest, ViewsDoNotDelay) {
  EXPECT_EQ(RunChild("ViewsDoNotDelay"), Clean());
}

SCENARIO(DaemonDoesNotDelay) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::promise<void> inside, over;
  std::thread daemon([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    REQUIRE(pyhold_thread_set_daemon(true) == PYHOLD_OK);
    PyThreadState* state = PyEval_SaveThread();
    inside.set_value();
    over.get_future().wait();
    REQUIRE(pyhold_thread_set_daemon(false) == PYHOLD_EFINALIZING);
    REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
    (void)state;  // it is gone: nothing to come back to
  });
  PyThreadState* saved = PyEval_SaveThread();
  inside.get_future().wait();
  PyEval_RestoreThread(saved);
  REQUIRE(Py_FinalizeEx() == 0);
  over.set_value();
  daemon.join();
  return 0;
}
TEST(FinalizeTest, DaemonDoesNotDelayAndItsGuardIsHarmlessAfterwards) {
  EXPECT_EQ(RunChild("DaemonDoesNotDelay"), Clean());
}

// --- After the gate ---

static InterpreterView* the_view;
static int probes;

// Called by an atexit callback, whenever it was registered: the gate is open.
PyObject* ProbeInCallback(PyObject*, PyObject*) {
  REQUIRE(the_view->Hold());
  REQUIRE(InterpreterRef::Current());
  REQUIRE(InterpreterRef::Lookup(0));
  REQUIRE(ThreadStateGuard(*the_view));
  {
    ThreadStateDetachGuard detached;
    REQUIRE(detached);
    std::thread([] { REQUIRE(ThreadStateGuard(*the_view)); }).join();
  }
  ++probes;
  Py_RETURN_NONE;
}
PyMethodDef probe_in_callback = {"probe", ProbeInCallback, METH_NOARGS,
                                 nullptr};

// Called when modules are torn down, on the thread that finalizes: this one has
// the last word, and everybody else is refused.
void ProbeAfterGate(PyObject*) {
  REQUIRE(the_view->Hold().status() == PYHOLD_EFINALIZING);
  REQUIRE(InterpreterRef::Current().status() == PYHOLD_EFINALIZING);
  REQUIRE(InterpreterRef::Lookup(0).status() == PYHOLD_EFINALIZING);
  {
    ThreadStateGuard guard(*the_view);
    REQUIRE(guard);
    ThreadStateGuard nested(*the_view);
    REQUIRE(nested);
    REQUIRE(Eval("1 + 1") == 2);
    ThreadStateDetachGuard detached;
    REQUIRE(detached);
    ThreadStateGuard again(*the_view);
    REQUIRE(again);
    REQUIRE(Eval("1 + 1") == 2);
  }
  {
    ThreadStateDetachGuard detached(pyhold::kHolding);
    REQUIRE(detached.IsDetached());
    ThreadStateGuard again(*the_view);
    REQUIRE(again);
    REQUIRE(Eval("1 + 1") == 2);
  }
  std::thread([] {
    REQUIRE(ThreadStateGuard(*the_view).status() == PYHOLD_EFINALIZING);
  }).join();
  ++probes;
}

void RegisterAtExit(PyMethodDef* method) {
  PyObject* probe = PyCFunction_New(method, nullptr);
  PyObject_SetAttrString(PyImport_AddModule("__main__"), "probe", probe);
  Py_DECREF(probe);
  Exec("import atexit; atexit.register(probe)");
}

SCENARIO(RefusedAfterTheGate) {
  StartPython();
  RegisterAtExit(&probe_in_callback);  // earlier, so it runs later
  the_view = new InterpreterView(InterpreterView::Current());
  CallAtTearDown(ProbeAfterGate, &probes);
  Exec("atexit.register(probe)");
  SubInterpreter sub(SubInterpreter::kShared);
  InterpreterView sub_view = InterpreterView::Current();
  sub.End();
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(probes == 3);
  REQUIRE(ThreadStateGuard(*the_view).status() == PYHOLD_EFINALIZING);
  REQUIRE(InterpreterRef::Current().status() == PYHOLD_EDETACHED);
  REQUIRE(InterpreterView::Current().status() == PYHOLD_EDETACHED);
  REQUIRE(InterpreterView::Main().status() == PYHOLD_ENOINTERP);
  delete the_view;
  return 0;
}
TEST(FinalizeTest, GrantedInCallbacksAndRefusedAfterwards) {
  EXPECT_EQ(RunChild("RefusedAfterTheGate"), Clean());
}

// A first view that is made while the callbacks run is in time: what it lets in
// is waited for.
PyObject* ProbeFirstView(PyObject*, PyObject*) {
  the_view = new InterpreterView(InterpreterView::Current());
  REQUIRE(*the_view);
  REQUIRE(!PyErr_Occurred());
  std::promise<void> inside;
  std::thread([&] {
    ThreadStateGuard guard(*the_view);
    REQUIRE(guard);
    inside.set_value();
    ThreadStateDetachGuard detached;
    while (InterpreterRef::Lookup(0)) std::this_thread::yield();
    ++probes;
  }).detach();
  ThreadStateDetachGuard detached;
  inside.get_future().wait();
  Py_RETURN_NONE;
}
PyMethodDef probe_first_view = {"probe", ProbeFirstView, METH_NOARGS, nullptr};

// After it has closed, it is too late.
void ProbeTooLate(PyObject*) {
  REQUIRE(InterpreterView::Current().status() == PYHOLD_EFINALIZING);
  REQUIRE(InterpreterRef::Current().status() == PYHOLD_EFINALIZING);
  REQUIRE(!PyErr_Occurred());
  ++probes;
}

SCENARIO(FirstViewInAnAtexitCallback) {
  StartPython();
  if (argument & 1) Exec("import threading");
  if (argument & 2) {
    CallAtTearDown(ProbeTooLate, &probes);
  } else {
    RegisterAtExit(&probe_first_view);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(probes == 1);
  return 0;
}
TEST(FinalizeTest, FirstViewInAnAtexitCallbackIsInTime) {
  EXPECT_EQ(RunChild("FirstViewInAnAtexitCallback", 0), Clean());
  EXPECT_EQ(RunChild("FirstViewInAnAtexitCallback", 1), Clean());
}
TEST(FinalizeTest, FirstViewInTheTearDownIsTooLate) {
  EXPECT_EQ(RunChild("FirstViewInAnAtexitCallback", 2), Clean());
  EXPECT_EQ(RunChild("FirstViewInAnAtexitCallback", 3), Clean());
}

// Somebody calls or clears the callbacks in mid-life: the gate is registered
// again, and closes at the end.
SCENARIO(CallbacksInMidLife) {
  StartPython();
  if (argument & 4) SubInterpreter(SubInterpreter::kShared);
  if (argument & 1) Exec("import threading");
  InterpreterView view = InterpreterView::Current();
  Exec(argument & 2 ? "import atexit; atexit._clear()"
                    : "import atexit; atexit._run_exitfuncs()");
  REQUIRE(view.Hold());
  {
    ThreadStateDetachGuard detached;
    std::thread([&] { REQUIRE(ThreadStateGuard(view)); }).join();
    // For a subinterpreter the service thread registers it again.
    if (argument & 4)
      std::thread([&] {
        while (true) {
          ThreadStateGuard guard(view);
          if (Eval("__import__('atexit')._ncallbacks()") == 1) break;
        }
      }).join();
  }
  std::atomic<bool> left{false};
  std::promise<void> inside;
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    inside.set_value();
    ThreadStateDetachGuard detached;
    while (InterpreterRef::Lookup(view.id())) std::this_thread::yield();
    left = true;
  });
  {
    ThreadStateDetachGuard detached;
    inside.get_future().wait();
  }
  if (argument & 4)
    Py_EndInterpreter(Attached());
  else
    REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(left);
  holder.join();
  return 0;
}
TEST(FinalizeTest, GateThatIsTakenOutOfAtexitComesBack) {
  for (int argument = 0; argument < 8; ++argument) {
    // Without threading a call of the callbacks looks as the end does.
    if ((argument & 3) == 0) continue;
    EXPECT_EQ(RunChild("CallbacksInMidLife", argument), Clean()) << argument;
  }
}

// The same where it cannot be told from `threading`, but could the time before.
SCENARIO(CallbacksInMidLifeTwice) {
  StartPython();
  Exec("import atexit, sys, threading");
  InterpreterView view = InterpreterView::Current();
  Exec("atexit._run_exitfuncs()");
  Exec("while atexit._ncallbacks() != 1: pass");  // a pending call registers it
  Exec("del sys.modules['threading']");
  Exec("atexit._clear()");
  REQUIRE(view.Hold());
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(!view.Hold());
  return 0;
}
TEST(FinalizeTest, GateThatIsTakenOutAgainComesBack) {
  EXPECT_EQ(RunChild("CallbacksInMidLifeTwice"), Clean());
}

// Python code calls what finalizes, as PyErr_Print() does at SystemExit: so there is
// a frame, as if a program called the callbacks in mid-life.
PyObject* FinalizeNow(PyObject*, PyObject*) {
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(probes == 1);
  _exit(0);
}
PyMethodDef finalize_now = {"probe", FinalizeNow, METH_NOARGS, nullptr};

SCENARIO(FinalizeInsideACall) {
  StartPython();
  if (argument == 1) Exec("import threading");
  InterpreterView view = InterpreterView::Current();
  std::promise<void> inside;
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    inside.set_value();
    ThreadStateDetachGuard detached;
    AwaitClose(0);
    ++probes;
  });
  {
    ThreadStateDetachGuard detached;
    inside.get_future().wait();
  }
  PyObject* probe = PyCFunction_New(&finalize_now, nullptr);
  PyObject_SetAttrString(PyImport_AddModule("__main__"), "probe", probe);
  Exec("probe()");
  return 1;
}
TEST(FinalizeTest, GateClosesWherePythonCodeEndsPython) {
#ifdef Py_DEBUG
  GTEST_SKIP() << "CPython's own assertions do not let running code end it";
#endif
  EXPECT_EQ(RunChild("FinalizeInsideACall", 0), Clean());
  EXPECT_EQ(RunChild("FinalizeInsideACall", 1), Clean());
}

// What is handed to a native thread by callbacks that are older than the first
// view arrives, too.
static std::atomic<int> handed{0}, arrived{0};
PyObject* HandOver(PyObject*, PyObject*) {
  const int number = ++handed;
  ThreadStateDetachGuard detached;
  while (arrived < number) std::this_thread::yield();
  Py_RETURN_NONE;
}
PyMethodDef hand_over = {"probe", HandOver, METH_NOARGS, nullptr};

SCENARIO(FlushedByOlderCallbacks) {
  StartPython();
  RegisterAtExit(&hand_over);
  InterpreterView view = InterpreterView::Current();
  Exec("for i in range(20): atexit.register(probe)");
  std::thread native([&] {
    while (arrived < 21) {
      while (handed == arrived) std::this_thread::yield();
      ThreadStateGuard guard(view);
      REQUIRE(guard);
      REQUIRE(Eval("1 + 1") == 2);
      ++arrived;
    }
  });
  REQUIRE(Py_FinalizeEx() == 0);
  native.join();
  return 0;
}
TEST(FinalizeTest, WhatOlderCallbacksHandToNativeThreadsArrives) {
  EXPECT_EQ(RunChild("FlushedByOlderCallbacks"), Clean());
}

// Whoever keeps the gate's argument does not keep the gate open.
SCENARIO(ArgumentsAreKept) {
  StartPython();
  Exec("import gc, atexit");
  InterpreterView view = InterpreterView::Current();
  Exec("kept = gc.get_objects()");
  std::promise<void> inside;
  std::atomic<bool> left{false};
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    inside.set_value();
    ThreadStateDetachGuard detached;
    while (InterpreterRef::Lookup(0)) std::this_thread::yield();
    left = true;
  });
  {
    ThreadStateDetachGuard detached;
    inside.get_future().wait();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(left);
  holder.join();
  return 0;
}
TEST(FinalizeTest, GateClosesAlsoWhereItsArgumentIsKept) {
  EXPECT_EQ(RunChild("ArgumentsAreKept"), Clean());
}

// threading._shutdown joins threads that are no daemons, before the callbacks:
// a first view on one of them is in time, however often it is asked for.
PyObject* ProbeInTime(PyObject*, PyObject*) {
  delete the_view;
  the_view = new InterpreterView(InterpreterView::Current());
  REQUIRE(the_view->status() == PYHOLD_OK);
  ThreadStateDetachGuard detached;
  REQUIRE(detached);
  Py_RETURN_NONE;
}
PyMethodDef probe_in_time = {"probe", ProbeInTime, METH_NOARGS, nullptr};

SCENARIO(FirstViewOnAJoinedThread) {
  StartPython();
  PyObject* probe = PyCFunction_New(&probe_in_time, nullptr);
  PyObject_SetAttrString(PyImport_AddModule("__main__"), "probe", probe);
  Py_DECREF(probe);
  Exec(R"(
import atexit, threading
def run():
    while not threading._SHUTTING_DOWN: pass
    probe()
    callbacks = atexit._ncallbacks()
    for i in range(3): probe()
    assert atexit._ncallbacks() == callbacks
    print('viewed')
threading.Thread(target=run).start()
)");
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(the_view->Hold().status() == PYHOLD_EFINALIZING);
  return 0;
}
TEST(FinalizeTest, FirstViewOnAThreadThatIsJoinedIsInTime) {
  ChildResult result = RunChild("FirstViewOnAJoinedThread");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("viewed"));
}

// A callback of a subinterpreter that runs after its gate.
PyObject* ProbeDetach(PyObject*, PyObject*) {
  PyThreadState* state = Attached();
  {
    ThreadStateDetachGuard detached;
    REQUIRE(detached);
  }
  REQUIRE(Attached() == state);
  ++probes;
  Py_RETURN_NONE;
}
PyMethodDef probe_detach = {"probe", ProbeDetach, METH_NOARGS, nullptr};

SCENARIO(DetachAfterTheGateOfASub) {
  StartPython();
  SubInterpreter sub(SubInterpreter::kShared);
  RegisterAtExit(&probe_detach);
  REQUIRE(InterpreterView::Current());
  sub.End();
  REQUIRE(probes == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FinalizeTest, FinalizingThreadMayDetachAfterTheGate) {
  EXPECT_EQ(RunChild("DetachAfterTheGateOfASub"), Clean());
}

// --- Fork: the child has no threads to wait for ---

SCENARIO(ForkWhileHeld) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::promise<void> inside, over;
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    ThreadStateDetachGuard detached;
    inside.set_value();
    over.get_future().wait();
  });
  InterpreterRef ref = view.Hold();
  {
    ThreadStateDetachGuard detached;
    inside.get_future().wait();
  }
  Exec(R"(
import os, signal, sys, warnings
warnings.simplefilter('ignore')
child = os.fork()
if child == 0:
    signal.alarm(60)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
)");
  ref = InterpreterRef();
  over.set_value();
  {
    ThreadStateDetachGuard detached;
    holder.join();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FinalizeTest, ForkedChildDoesNotWaitForThreadsItDoesNotHave) {
  EXPECT_EQ(RunChild("ForkWhileHeld"), Clean());
}

// --- Ctrl-C that is pending when pyhold first runs Python code ---

SCENARIO(InterruptBeforeTheFirstView) {
  StartPython(/*with_signal_handlers=*/true);
  raise(SIGINT);
  REQUIRE(InterpreterView::Current());
  REQUIRE(!PyErr_Occurred());
  // It is there still, for whoever runs next.
  REQUIRE(PyRun_SimpleString("for i in range(1000): pass") == -1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FinalizeTest, PendingInterruptIsLeftToOthers) {
  ChildResult result = RunChild("InterruptBeforeTheFirstView");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("KeyboardInterrupt"));
}

// --- The main interpreter ends them all ---

// While the main interpreter runs nothing, CPython queues calls to it: 32.
SCENARIO(ManyFirstViewsOfSubs) {
  StartPython();
  PyThreadState* saved = PyEval_SaveThread();
  std::thread([] {
    PyGILState_STATE old = PyGILState_Ensure();
    for (int i = 0; i < 100; ++i) {
      SubInterpreter sub(SubInterpreter::kShared);
      REQUIRE(InterpreterView::Current());
      sub.End();
    }
    PyGILState_Release(old);
  }).join();
  PyEval_RestoreThread(saved);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FinalizeTest, FirstViewsOfManySubinterpreters) {
  EXPECT_EQ(RunChild("ManyFirstViewsOfSubs"), Clean());
}

// A thread that is in the main interpreter has one of its own, which pyhold
// does not know, or does.
SCENARIO(ThreadWithASubinterpreterIsWaitedFor) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::atomic<bool> finalized{false};
  std::promise<void> inside;
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    SubInterpreter sub(SubInterpreter::kShared);
    if (argument == 1) REQUIRE(InterpreterView::Current());
    PyThreadState* saved = PyEval_SaveThread();
    inside.set_value();
    AwaitClose(0);
    PyEval_RestoreThread(saved);
    CallPythonForAWhile();
    REQUIRE(!finalized);
    sub.End();
    puts("ended by its owner");
  });
  {
    ThreadStateDetachGuard detached;
    inside.get_future().wait();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  finalized = true;
  holder.join();
  return 0;
}
TEST(FinalizeTest, ThreadWithASubinterpreterIsWaitedForWithBoth) {
  for (int known = 0; known < 2; ++known) {
    ChildResult result =
        RunChild("ThreadWithASubinterpreterIsWaitedFor", known);
    EXPECT_EQ(result, Clean());
    EXPECT_THAT(result.output, HasSubstr("ended by its owner"));
  }
}

// Only the subinterpreter was shown to pyhold, and it is never ended.
SCENARIO(HoldOnASubinterpreterDelaysTheRuntime) {
  StartPython();
  PyThreadState* main_state = PyThreadState_Get();
  SubInterpreter sub(argument == 0 ? SubInterpreter::kShared
                                   : SubInterpreter::kOwn);
  InterpreterView view = InterpreterView::Current();
  REQUIRE(view);
  std::atomic<bool> finalized{false};
  std::promise<void> inside;
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    inside.set_value();
    {
      ThreadStateDetachGuard detached;
      AwaitClose(view.id());
    }
    CallPythonForAWhile();
    REQUIRE(!finalized);
    puts("holder done");
  });
  PyEval_SaveThread();
  inside.get_future().wait();
  PyEval_RestoreThread(main_state);
  (void)Py_FinalizeEx();
  finalized = true;
  holder.join();
  return 0;
}
TEST(FinalizeTest, HoldOnASubinterpreterDelaysTheRuntime) {
  for (int own_gil = 0; own_gil <= SubInterpreter::kHasOwnGil; ++own_gil) {
    ChildResult result =
        RunChild("HoldOnASubinterpreterDelaysTheRuntime", own_gil);
    EXPECT_THAT(result.output, HasSubstr("holder done"));
    if (PY_VERSION_HEX >= 0x030D0000) {
      EXPECT_EQ(result, Clean());
    } else {  // CPython itself dies of interpreters left over, afterwards
      EXPECT_FALSE(result.hung);
      EXPECT_THAT(result.output, HasSubstr("remaining subinterpreters"));
    }
  }
}

SCENARIO(InitializeAgain) {
  std::promise<InterpreterView> first, second;
  std::promise<void> seen_first, seen_second;
  std::thread survivor([&] {
    InterpreterView view = first.get_future().get();
    {
      ThreadStateGuard guard(
          kKeptStateMayOutliveRuntime ? view : view.With(PYHOLD_PER_CALL));
      REQUIRE(guard);
      REQUIRE(Eval("6 * 7") == 42);
    }
    seen_first.set_value();
    InterpreterView next = second.get_future().get();
    REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
    {
      ThreadStateGuard guard(next);
      REQUIRE(guard);
      REQUIRE(Eval("6 * 7") == 42);
      REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
    }
    seen_second.set_value();
  });
  for (auto* round : {&first, &second}) {
    StartPython();
    InterpreterView view = InterpreterView::Current();
    REQUIRE(view);
    REQUIRE(view.id() == 0);
    PyThreadState* saved = PyEval_SaveThread();
    round->set_value(view);
    (round == &first ? seen_first : seen_second).get_future().wait();
    PyEval_RestoreThread(saved);
    REQUIRE(Py_FinalizeEx() == 0);
    REQUIRE(view.Hold().status() == PYHOLD_EFINALIZING);
    REQUIRE(InterpreterRef::Lookup(0).status() == PYHOLD_EFINALIZING);
  }
  survivor.join();
  return 0;
}
TEST(FinalizeTest, ThreadOutlivesTheRuntimeAndUsesTheNextOne) {
  EXPECT_EQ(RunChild("InitializeAgain"), Clean());
}

// --- Threads that cannot be waited for ---

SCENARIO(FinalizeInsideOwnGuard) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    REQUIRE(Py_FinalizeEx() == 0);
    REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
  }
  StartPython();  // nothing is left behind
  REQUIRE(InterpreterView::Current().Hold());
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FinalizeTest, InsideOnesOwnGuardItDoesNotWaitForItself) {
  EXPECT_EQ(RunChild("FinalizeInsideOwnGuard"), Clean());
}

SCENARIO(EndInterpreterInsideOwnGuard) {
  StartPython();
  PyThreadState* main_state = PyThreadState_Get();
  SubInterpreter sub(SubInterpreter::kShared);
  InterpreterView view = InterpreterView::Current();
  {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    sub.End();
    REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
  }
  REQUIRE(Attached() == main_state);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FinalizeTest, SubinterpreterInsideOnesOwnGuardToo) {
  EXPECT_EQ(RunChild("EndInterpreterInsideOwnGuard"), Clean());
}

SCENARIO(LimitIsReached) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  pyhold_wait_policy policy{};
  policy.give_up_after_ms = 50;
  pyhold_set_wait_policy(&policy);
  std::promise<void> inside, over;
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    PyThreadState* state = PyEval_SaveThread();
    inside.set_value();
    over.get_future().wait();
    REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
    (void)state;
  });
  InterpreterRef ref = view.Hold();
  PyThreadState* saved = PyEval_SaveThread();
  inside.get_future().wait();
  PyEval_RestoreThread(saved);
  REQUIRE(Py_FinalizeEx() == 0);
  over.set_value();
  holder.join();
  ref = InterpreterRef();
  return 0;
}
TEST(FinalizeTest, LimitEndsTheWaitWithAReport) {
  ChildResult result = RunChild("LimitIsReached");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("waits no longer"));
  EXPECT_THAT(result.output, HasSubstr("1 hold(s) that belong to no thread"));
}

// Nothing can be attached any more: who would, and would go on, is stopped.
SCENARIO(LimitIsReachedInADetachGuard) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  pyhold_wait_policy policy{};
  policy.give_up_after_ms = 50;
  pyhold_set_wait_policy(&policy);
  std::promise<int> inside;
  std::promise<void> over;
  std::atomic<bool> leaving{false};
  std::thread holder([&] {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    {
      ThreadStateDetachGuard detached;
      REQUIRE(detached);
      inside.set_value(gettid());
      over.get_future().wait();
      leaving = true;
    }
    puts("came back unattached");
    _exit(1);
  });
  int thread_id;
  {
    ThreadStateDetachGuard detached;
    thread_id = inside.get_future().get();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  over.set_value();
  while (!leaving || !ThreadSleeps(thread_id)) std::this_thread::yield();
  puts("stopped");
  _exit(0);
}
TEST(FinalizeTest, LimitStopsAThreadThatComesBack) {
  ChildResult result = RunChild("LimitIsReachedInADetachGuard");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("stopped"));
}

// The gate waits for nobody any more, and does what was deferred: a thread that comes
// back now, holding nothing, would be finalized under.
static std::atomic<int> sleeper{0};
static std::atomic<bool> may_come_back{false}, came_back{false};

SCENARIO(ComesBackAfterTheWait) {
  StartPython();
  pyhold_set_service_thread(false);
  InterpreterView view = InterpreterView::Current();
  std::promise<void> away;
  std::thread([&] {
    (void)PyGILState_Ensure();
    {
      ThreadStateDetachGuard detached;
      sleeper = gettid();
      away.set_value();
      while (!may_come_back) std::this_thread::yield();
    }
    came_back = true;
  }).detach();
  {
    ThreadStateDetachGuard detached;
    away.get_future().wait();
  }
  static pyhold_deferred node = {
      nullptr, [](pyhold_deferred*, bool attached) {
        REQUIRE(attached);
        ThreadStateDetachGuard detached;
        may_come_back = true;
        // Nobody has the GIL: so it sleeps for good, or comes.
        for (int asleep = 0; asleep < 100;) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          REQUIRE(!came_back);
          asleep = ThreadSleeps(sleeper) ? asleep + 1 : 0;
        }
        puts("sleeps");
      }};
  pyhold_defer(view.raw(), &node);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(!came_back);
  _exit(0);
}
TEST(FinalizeTest, ThreadThatComesBackAfterTheWaitSleeps) {
  ChildResult result = RunChild("ComesBackAfterTheWait");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("sleeps"));
}

static std::atomic<int> signals{0};
PyObject* CountSignal(PyObject*, PyObject*) {
  ++signals;
  Py_RETURN_NONE;
}
PyMethodDef count_signal = {"probe", CountSignal, METH_NOARGS, nullptr};

// Ctrl-C ends the wait, with word of who holds; any other exception of a signal
// handler is reported, and the wait goes on.
SCENARIO(SignalWhileItWaits) {
  StartPython(/*with_signal_handlers=*/true);
  Exec(
      "import signal, sys\n"
      "signal.signal(signal.SIGTERM, lambda *_: (probe(), sys.exit(3)))");
  PyObject* probe = PyCFunction_New(&count_signal, nullptr);
  PyObject_SetAttrString(PyImport_AddModule("__main__"), "probe", probe);
  Py_DECREF(probe);
  InterpreterView view = InterpreterView::Current();
  InterpreterRef forgotten = view.Hold();
  std::thread user([&] {
    AwaitClose(0);
    for (int i = 1; i <= 3; ++i) {
      kill(getpid(), SIGTERM);
      while (signals < i) std::this_thread::yield();
      // Its exception is reported, and the wait goes on.
      while (!ThreadSleeps(getpid())) std::this_thread::yield();
    }
    if (argument == 0)
      kill(getpid(), SIGINT);
    else
      forgotten = InterpreterRef();
  });
  REQUIRE(Py_FinalizeEx() == 0);
  user.join();
  REQUIRE(view.Hold().status() == PYHOLD_EFINALIZING);
  return 0;
}
TEST(FinalizeTest, CtrlCEndsTheWait) {
  ChildResult result = RunChild("SignalWhileItWaits", 0, 20);
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("KeyboardInterrupt"));
  EXPECT_THAT(result.output, HasSubstr("waits no longer"));
  EXPECT_THAT(result.output, HasSubstr("1 hold(s)"));
}
TEST(FinalizeTest, OtherSignalsDoNotEndTheWait) {
  ChildResult result = RunChild("SignalWhileItWaits", 1, 20);
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("SystemExit"));
  EXPECT_THAT(result.output, testing::Not(HasSubstr("waits no longer")));
}

// --- The report ---

// The holder lets go when it has read the report, which goes to a pipe here.
SCENARIO(Report) {
  setenv("PYHOLD_WARN_AFTER_MS", "30", 1);
  StartPython();
  InterpreterView view = InterpreterView::Current();
  int fds[2], terminal = dup(2);
  REQUIRE(pipe(fds) == 0);
  dup2(fds[1], 2);
  std::promise<void> inside;
  std::thread holder([&] {
    pthread_setname_np(pthread_self(), "io-worker-7");
    printf("native id %d\n", gettid());
    printf("line %d\n", __LINE__ + 1);
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    ThreadStateGuard nested(view);
    inside.set_value();
    ThreadStateDetachGuard detached;
    std::string report;
    char c;
    while (read(fds[0], &c, 1) == 1) {
      report += c;
      if (c == '\n' && report.find("since") != std::string::npos) break;
    }
    fputs(report.c_str(), stdout);
  });
  PyThreadState* saved = PyEval_SaveThread();
  inside.get_future().wait();
  PyEval_RestoreThread(saved);
  REQUIRE(Py_FinalizeEx() == 0);
  holder.join();
  dup2(terminal, 2);
  return 0;
}
TEST(FinalizeTest, ReportNamesTheThreadAndTheLine) {
  ChildResult result = RunChild("Report");
  EXPECT_EQ(result, Clean());
  int native_id = 0, line = 0;
  ASSERT_EQ(
      sscanf(result.output.c_str(), "native id %d\nline %d", &native_id, &line),
      2)
      << result.output;
  EXPECT_THAT(result.output, HasSubstr("interpreter 0 has waited"));
  EXPECT_THAT(result.output, HasSubstr("thread " + std::to_string(native_id) +
                                       " \"io-worker-7\" for "));
  EXPECT_THAT(result.output,
              HasSubstr("finalize_test.cc:" + std::to_string(line) + "\n"));
}

// --- Under load ---

// Threads that call without a pause. 3.15's own guards never end this.
SCENARIO(BusyThreads) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  PyThreadState* saved = PyEval_SaveThread();
  std::atomic<bool> finalized{false};
  std::atomic<int> busy{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int calls = 0;; ++calls) {
        ThreadStateGuard guard(view);
        if (!guard) break;
        REQUIRE(!finalized);
        REQUIRE(Eval("sum([1, 2, 3])") == 6);
        if (calls == 10) ++busy;
      }
      // Refused for good: also when asked without a pause.
      while (!finalized) REQUIRE(!ThreadStateGuard(view));
    });
  }
  while (busy < 8) std::this_thread::yield();
  PyEval_RestoreThread(saved);
  REQUIRE(Py_FinalizeEx() == 0);
  finalized = true;
  for (auto& thread : threads) thread.join();
  return 0;
}
TEST(FinalizeTest, BusyThreadsDoNotStarveIt) {
  for (int i = 0; i < 10; ++i) EXPECT_EQ(RunChild("BusyThreads"), Clean());
}

// --- 3.15: the other callbacks run while it waits ---

#if PY_VERSION_HEX >= 0x030F0000
static InterpreterRef* held_until_callback;
PyObject* LetGo(PyObject*, PyObject*) {
  REQUIRE(*held_until_callback);
  *held_until_callback = InterpreterRef();
  ++probes;
  Py_RETURN_NONE;
}
PyMethodDef let_go = {"probe", LetGo, METH_NOARGS, nullptr};

SCENARIO(CallbacksRunWhileItWaits) {
  StartPython();
  RegisterAtExit(&let_go);  // earlier than the gate, so it runs later
  InterpreterView view = InterpreterView::Current();
  held_until_callback = new InterpreterRef(view.Hold());
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(probes == 1);
  return 0;
}
TEST(FinalizeTest, OtherCallbacksRunWhileItWaits) {
  EXPECT_EQ(RunChild("CallbacksRunWhileItWaits"), Clean());
}
#endif

}  // namespace
