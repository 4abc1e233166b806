// PEP 788 as CPython 3.15's documentation has it, asserted three times: of
// CPython 3.15 itself, of pyhold on 3.15 (PYHOLD_PEP788_FORCE), and of pyhold on
// older Pythons. The same assertions; where the two differ they ask one of the
// constants below, which docs/pep788.md explains.
#include "tests/support/python.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/pep788.h"
#include "tests/support/child.h"
#include "tests/support/failing_malloc.h"

namespace {

using testing::HasSubstr;

constexpr bool kIsNative = PYHOLD_PEP788_IS_NATIVE;

// --- The differences ---

// 1. The gate closes after the last atexit callback: threads that ask while
// finalization waits get no guard. CPython gives guards until it has waited.
constexpr bool kGivesGuardsUntilTheEnd = kIsNative;
// 2. Threads that ask again and again cannot keep it from finalizing.
constexpr bool kFinalizesUnderLoad = !kIsNative;
// 4. The main interpreter's views refuse until somebody made it known: a view or
// guard made attached, or a module's import.
constexpr bool kMainIsKnownByItself = kIsNative;
// 5. A view of a main interpreter that ended names the next one.
constexpr bool kViewsOutliveTheirInterpreter = kIsNative;
// 6. A thread keeps the thread state that an ensure made for the main
// interpreter.
constexpr bool kKeepsStates = !kIsNative;
// 7. An ensure finds the state that an older ensure of this thread set aside.
constexpr bool kFindsStatesSetAside = !kIsNative;
// 8. A child of fork() waits for what threads of its parent hold.
constexpr bool kForkedChildWaits = kIsNative;
// 9. On 3.11 a thread that is attached to a subinterpreter, by a state that
// pyhold did not make, must have made a view or guard of it before it ensures.
constexpr bool kSeesAllStates = PY_VERSION_HEX >= 0x030C0000;

// --- The types are 3.15's ---

static_assert(std::is_same_v<PyThreadStateToken, void>);
static_assert(std::is_same_v<decltype(PyInterpreterGuard_FromCurrent()),
                             PyInterpreterGuard*>);
static_assert(std::is_same_v<decltype(PyInterpreterGuard_FromView(
                                 static_cast<PyInterpreterView*>(nullptr))),
                             PyInterpreterGuard*>);
static_assert(std::is_same_v<decltype(PyInterpreterView_FromCurrent()),
                             PyInterpreterView*>);
static_assert(
    std::is_same_v<decltype(PyInterpreterView_FromMain()), PyInterpreterView*>);
static_assert(std::is_same_v<decltype(PyThreadState_Ensure(
                                 static_cast<PyInterpreterGuard*>(nullptr))),
                             PyThreadStateToken*>);
static_assert(std::is_same_v<decltype(PyThreadState_EnsureFromView(
                                 static_cast<PyInterpreterView*>(nullptr))),
                             PyThreadStateToken*>);
static_assert(!std::is_same_v<PyInterpreterGuard, PyInterpreterView>);

// --- What the scenarios share ---

void CallPython() { REQUIRE(Eval("sum([1, 2, 3])") == 6); }

void Detached(const std::function<void()>& fn) {
  PyThreadState* state = PyEval_SaveThread();
  fn();
  PyEval_RestoreThread(state);
}

void OnNewThread(const std::function<void()>& fn) {
  Detached([&] { std::thread(fn).join(); });
}

int64_t AttachedId() {
  return PyInterpreterState_GetID(PyInterpreterState_Get());
}

// Whether this thread, which is attached, has an exception set of that type;
// clears it.
bool Raised(PyObject* type) {
  bool raised = PyErr_Occurred() != nullptr && PyErr_ExceptionMatches(type);
  PyErr_Clear();
  return raised;
}

PyObject* FinalizationError() {
#if PY_VERSION_HEX >= 0x030D0000
  return PyExc_PythonFinalizationError;
#else
  return PyExc_RuntimeError;
#endif
}

// A Python function that calls `fn`, for atexit and destructors.
PyObject* Callback(std::function<void()>* fn) {
  static PyMethodDef method = {"callback",
                               [](PyObject* self, PyObject*) -> PyObject* {
                                 (*static_cast<std::function<void()>*>(
                                     PyCapsule_GetPointer(self, nullptr)))();
                                 Py_RETURN_NONE;
                               },
                               METH_NOARGS, nullptr};
  PyObject* capsule = PyCapsule_New(fn, nullptr, nullptr);
  PyObject* function = PyCFunction_New(&method, capsule);
  Py_DECREF(capsule);
  REQUIRE(function != nullptr);
  return function;
}

void AtExit(std::function<void()>* fn) {
  PyObject* function = Callback(fn);
  PyObject* atexit = PyImport_ImportModule("atexit");
  PyObject* done = PyObject_CallMethod(atexit, "register", "O", function);
  REQUIRE(done != nullptr);
  Py_DECREF(done);
  Py_DECREF(atexit);
  Py_DECREF(function);
}

// Has `fn` called when the interpreter's modules are torn down.
void AtTeardown(std::function<void()>* fn) {
  PyObject* function = Callback(fn);
  PyObject* main = PyImport_AddModule("__main__");
  REQUIRE(PyObject_SetAttrString(main, "callback", function) == 0);
  Py_DECREF(function);
  Exec(R"(
class Last:
    def __init__(self, callback): self.callback = callback
    def __del__(self): self.callback()
last = Last(callback)
)");
}

// --- Attaching ---

SCENARIO(NewThread) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  PyInterpreterGuard* another = PyInterpreterGuard_FromView(view);
  REQUIRE(view != nullptr && guard != nullptr && another != nullptr);
  REQUIRE(PyErr_Occurred() == nullptr);
  OnNewThread([&] {
    PyThreadStateToken* token = PyThreadState_Ensure(guard);
    REQUIRE(token != nullptr && AttachedId() == 0);
    CallPython();
    PyThreadState_Release(token);
    token = PyThreadState_EnsureFromView(view);
    REQUIRE(token != nullptr && AttachedId() == 0);
    CallPython();
    PyThreadState_Release(token);
  });
  PyInterpreterGuard_Close(guard);
  // On another thread than it was taken.
  OnNewThread([&] { PyInterpreterGuard_Close(another); });
  PyInterpreterView_Close(view);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, ThreadWithoutAStateIsAttachedAndDetached) {
  EXPECT_EQ(RunChild("NewThread"), Clean());
}

SCENARIO(KeepsStates) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  Exec(R"(
import threading
local = threading.local()
def count():
    local.count = getattr(local, 'count', 0) + 1
    return local.count
)");
  OnNewThread([&] {
    for (int i = 0; i < 4; ++i) {
      PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
      REQUIRE(Eval("count()") == 1);  // whether or not its state is kept
      PyThreadStateToken* nested = PyThreadState_EnsureFromView(view);
      REQUIRE(Eval("count()") == 2);
      PyThreadState_Release(nested);
      PyThreadState_Release(token);
      REQUIRE((PyGILState_GetThisThreadState() != nullptr) == kKeepsStates);
    }
    // An exception that was left pending is not the next one's.
    PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
    PyErr_SetString(PyExc_ValueError, "nobody looked");
    PyThreadStateToken* nested = PyThreadState_EnsureFromView(view);
    PyThreadState_Release(nested);
    REQUIRE(PyErr_ExceptionMatches(PyExc_ValueError));
    PyThreadState_Release(token);
    token = PyThreadState_EnsureFromView(view);
    REQUIRE(PyErr_Occurred() == nullptr);
    PyThreadState_Release(token);
  });
  PyInterpreterView_Close(view);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, ThreadLocalsLastForAnOutermostEnsure) {
  EXPECT_EQ(RunChild("KeepsStates"), Clean());
}

SCENARIO(Nested) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  auto nest = [&] {
    PyThreadState* state = Attached();
    PyThreadStateToken* first = PyThreadState_Ensure(guard);
    REQUIRE(first != nullptr && Attached() == state);
    PyThreadStateToken* second = PyThreadState_EnsureFromView(view);
    REQUIRE(second != nullptr && Attached() == state);
    PyThreadStateToken* third = PyThreadState_Ensure(guard);
    REQUIRE(third != nullptr && Attached() == state);
    PyThreadState_Release(third);
    REQUIRE(Attached() == state);
    PyThreadState_Release(second);
    REQUIRE(Attached() == state);
    CallPython();
    PyThreadState_Release(first);
    REQUIRE(Attached() == state);
    CallPython();
  };
  nest();  // the main thread is attached by Py_Initialize
  OnNewThread([&] {
    PyThreadStateToken* token = PyThreadState_Ensure(guard);
    nest();
    PyThreadState_Release(token);
  });
  OnNewThread([&] {
    PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
    nest();
    PyThreadState_Release(token);
  });
  OnNewThread([&] {
    PyGILState_STATE old = PyGILState_Ensure();
    nest();
    PyGILState_Release(old);
  });
  PyInterpreterGuard_Close(guard);
  PyInterpreterView_Close(view);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, NestedEnsureKeepsTheCallerAttachedToTheSameState) {
  EXPECT_EQ(RunChild("Nested"), Clean());
}

SCENARIO(DetachedGilstate) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  auto ensure = [&](PyThreadState* state) {
    for (int i = 0; i < 2; ++i) {
      PyThreadStateToken* token = PyThreadState_Ensure(guard);
      REQUIRE(token != nullptr && Attached() == state);
      CallPython();
      PyThreadState_Release(token);
      token = PyThreadState_EnsureFromView(view);
      REQUIRE(token != nullptr && Attached() == state);
      PyThreadState_Release(token);
      REQUIRE(PyGILState_GetThisThreadState() == state);
    }
  };
  PyInterpreterState* interp = PyInterpreterState_Get();
  OnNewThread([&] {  // the thread state that one made for oneself
    PyThreadState* state = PyThreadState_New(interp);
    PyEval_RestoreThread(state);
    PyEval_SaveThread();
    ensure(state);
    PyEval_RestoreThread(state);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
  });
  OnNewThread([&] {  // PyGILState's, in Py_BEGIN_ALLOW_THREADS
    PyGILState_STATE old = PyGILState_Ensure();
    PyThreadState* state = Attached();
    Detached([&] { ensure(state); });
    REQUIRE(Attached() == state);
    PyGILState_Release(old);
  });
  PyThreadState* state = Attached();  // the main thread's
  Detached([&] { ensure(state); });
  PyInterpreterGuard_Close(guard);
  PyInterpreterView_Close(view);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, DetachedStateOfTheThreadIsAttachedAndLeft) {
  EXPECT_EQ(RunChild("DetachedGilstate"), Clean());
}

SCENARIO(MainSubMain) {
  StartPython();
  PyInterpreterView* main_view = PyInterpreterView_FromCurrent();
  PyInterpreterGuard* main_guard = PyInterpreterGuard_FromCurrent();
  PyThreadState* main_state = Attached();
  SubInterpreter sub(argument ? SubInterpreter::kOwn : SubInterpreter::kShared);
  PyInterpreterView* sub_view = PyInterpreterView_FromCurrent();
  PyInterpreterGuard* sub_guard = PyInterpreterGuard_FromView(sub_view);
  REQUIRE(sub_view != nullptr && sub_guard != nullptr);
  int64_t sub_id = AttachedId();
  PyThreadState_Swap(main_state);

  auto visit = [&] {
    PyThreadState* outer = Attached();
    PyThreadStateToken* in_sub = PyThreadState_Ensure(sub_guard);
    REQUIRE(in_sub != nullptr && AttachedId() == sub_id);
    CallPython();
    PyThreadState* middle = Attached();
    PyThreadStateToken* in_main = PyThreadState_EnsureFromView(main_view);
    REQUIRE(in_main != nullptr && AttachedId() == 0);
    REQUIRE((Attached() == outer) == kFindsStatesSetAside);
    CallPython();
    PyThreadStateToken* nested = PyThreadState_Ensure(main_guard);
    REQUIRE(nested != nullptr && AttachedId() == 0);
    PyThreadState_Release(nested);
    PyThreadState_Release(in_main);
    REQUIRE(Attached() == middle);
    CallPython();
    PyThreadState_Release(in_sub);
    REQUIRE(Attached() == outer);
    CallPython();
  };
  visit();
  OnNewThread([&] {
    PyThreadStateToken* token = PyThreadState_Ensure(main_guard);
    visit();
    PyThreadState_Release(token);
  });
  OnNewThread([&] {  // detached before, detached after
    PyThreadStateToken* token = PyThreadState_EnsureFromView(sub_view);
    REQUIRE(token != nullptr && AttachedId() == sub_id);
    CallPython();
    PyThreadState_Release(token);
  });

  PyInterpreterGuard_Close(sub_guard);
  PyThreadState_Swap(sub.state());
  sub.End();
  // The view of what has ended.
  REQUIRE(PyInterpreterGuard_FromView(sub_view) == nullptr);
  REQUIRE(PyThreadState_EnsureFromView(sub_view) == nullptr);
  REQUIRE(PyErr_Occurred() == nullptr);
  REQUIRE(Attached() == main_state);
  PyInterpreterView_Close(sub_view);
  PyInterpreterGuard_Close(main_guard);
  PyInterpreterView_Close(main_view);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, MainThenSubThenMainOnOneThread) {
  EXPECT_EQ(RunChild("MainSubMain", SubInterpreter::kShared), Clean());
  if (SubInterpreter::kHasOwnGil) {
    EXPECT_EQ(RunChild("MainSubMain", SubInterpreter::kOwn), Clean());
  }
}

SCENARIO(PendingException) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  PyErr_SetString(PyExc_ValueError, "the caller's");
  PyThreadState_Release(PyThreadState_EnsureFromView(view));
  PyThreadState_Release(PyThreadState_Ensure(guard));
  PyInterpreterGuard* another = PyInterpreterGuard_FromView(view);
  REQUIRE(another != nullptr);
  PyInterpreterGuard_Close(another);
  PyInterpreterView_Close(PyInterpreterView_FromMain());
  PyInterpreterGuard_Close(guard);
  PyInterpreterView_Close(view);
  REQUIRE(Raised(PyExc_ValueError));
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, CallersPendingExceptionStays) {
  EXPECT_EQ(RunChild("PendingException"), Clean());
}

SCENARIO(ReleaseTooOften) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
  PyThreadState_Release(token);
  PyThreadState_Release(token);
  return 0;
}
TEST(Pep788Test, ReleaseBelowZeroIsFatalAndSaysSo) {
  ChildResult result = RunChild("ReleaseTooOften");
  EXPECT_EQ(result.signal, SIGABRT) << result;
  EXPECT_THAT(result.output,
              testing::AnyOf(HasSubstr("PyThreadState_Release()"),
                             HasSubstr("an ensure was released")));
}

SCENARIO(ReleaseDetached) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  OnNewThread([&] {
    PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
    PyEval_SaveThread();
    PyThreadState_Release(token);
  });
  return 0;
}
TEST(Pep788Test, ReleaseWithoutAThreadStateIsFatalAndSaysSo) {
  ChildResult result = RunChild("ReleaseDetached");
  EXPECT_EQ(result.signal, SIGABRT) << result;
  EXPECT_THAT(result.output,
              HasSubstr(kIsNative ? "PyThreadState_Release" : "pyhold: fatal"));
}

SCENARIO(FromCurrentDetached) {
  StartPython();
  PyEval_SaveThread();
  if (argument == 0)
    (void)PyInterpreterGuard_FromCurrent();
  else
    (void)PyInterpreterView_FromCurrent();
  return 0;
}
TEST(Pep788Test, FromCurrentWithoutAThreadStateIsFatal) {
  for (int call : {0, 1}) {
    ChildResult result = RunChild("FromCurrentDetached", call);
    EXPECT_NE(result.signal, 0) << result;
    if (!kIsNative) {
      EXPECT_EQ(result.signal, SIGABRT) << result;
      EXPECT_THAT(result.output, HasSubstr("_FromCurrent() on a thread that"));
    }
  }
}

// --- Keeping an interpreter from finalizing ---

enum Protection { kGuard, kTwoGuards, kEnsureWithGuard, kEnsureFromView };

SCENARIO(Delays) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  std::promise<void> ready, begun;
  std::function<void()> begin = [&] { begun.set_value(); };
  AtExit(&begin);
  std::atomic<bool> finalized{false};
  std::thread thread([&] {
    PyInterpreterGuard* guard = nullptr;
    PyThreadStateToken* token = nullptr;
    if (argument == kEnsureFromView) {
      token = PyThreadState_EnsureFromView(view);
      REQUIRE(token != nullptr);
    } else {
      guard = PyInterpreterGuard_FromView(view);
      REQUIRE(guard != nullptr);
    }
    if (argument == kTwoGuards) {
      PyInterpreterGuard* second = PyInterpreterGuard_FromView(view);
      PyInterpreterGuard_Close(guard);
      guard = second;
    }
    if (argument == kEnsureWithGuard) token = PyThreadState_Ensure(guard);
    auto wait = [&] { ready.set_value(), begun.get_future().wait(); };
    if (token != nullptr)
      Detached(wait);
    else
      wait();
    // It waits for this thread, which may go on, and come and go.
    for (int i = 0; i < 200; ++i) {
      PyThreadStateToken* nested = guard != nullptr
                                       ? PyThreadState_Ensure(guard)
                                       : PyThreadState_EnsureFromView(view);
      REQUIRE(nested != nullptr);
      CallPython();
      if (token != nullptr) {
        PyThreadStateToken* another = PyThreadState_EnsureFromView(view);
        REQUIRE(another != nullptr);
        PyThreadState_Release(another);
      }
      PyThreadState_Release(nested);
      std::this_thread::yield();
    }
    REQUIRE(!finalized);
    if (token != nullptr) PyThreadState_Release(token);
    if (guard != nullptr) PyInterpreterGuard_Close(guard);
  });
  Detached([&] { ready.get_future().wait(); });
  REQUIRE(Py_FinalizeEx() == 0);
  finalized = true;
  thread.join();
  REQUIRE(PyThreadState_EnsureFromView(view) == nullptr);
  PyInterpreterView_Close(view);
  return 0;
}
TEST(Pep788Test, GuardDelaysFinalization) {
  EXPECT_EQ(RunChild("Delays", kGuard), Clean());
}
TEST(Pep788Test, SecondGuardDelaysFinalizationWhenTheFirstIsClosed) {
  EXPECT_EQ(RunChild("Delays", kTwoGuards), Clean());
}
TEST(Pep788Test, EnsureWithAnOpenGuardDelaysFinalization) {
  EXPECT_EQ(RunChild("Delays", kEnsureWithGuard), Clean());
}
TEST(Pep788Test, EnsureFromViewDelaysFinalization) {
  EXPECT_EQ(RunChild("Delays", kEnsureFromView), Clean());
}

// An ensure from a view, in one with a guard, when finalization waits for that
// guard already: it keeps the interpreter when the guard is closed.
SCENARIO(NestedEnsureOutlivesTheGuard) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  std::promise<void> ready, begun;
  std::function<void()> begin = [&] { begun.set_value(); };
  AtExit(&begin);
  std::atomic<bool> finalized{false};
  std::thread thread([&] {
    PyInterpreterGuard* guard = PyInterpreterGuard_FromView(view);
    PyThreadStateToken* token = PyThreadState_Ensure(guard);
    REQUIRE(token != nullptr);
    Detached([&] {
      ready.set_value();
      begun.get_future().wait();
      while (!kGivesGuardsUntilTheEnd) {  // until the gate has closed
        PyInterpreterGuard* another = PyInterpreterGuard_FromView(view);
        if (another == nullptr) break;
        PyInterpreterGuard_Close(another);
        std::this_thread::yield();
      }
    });
    PyThreadStateToken* nested = PyThreadState_EnsureFromView(view);
    REQUIRE(nested != nullptr);
    PyInterpreterGuard_Close(guard);
    for (int i = 0; i < 200; ++i) {
      CallPython();
      Detached([] { std::this_thread::yield(); });
    }
    REQUIRE(!finalized);
    PyThreadState_Release(nested);
    PyThreadState_Release(token);  // a daemon, but attached until here
  });
  Detached([&] { ready.get_future().wait(); });
  REQUIRE(Py_FinalizeEx() == 0);
  finalized = true;
  thread.join();
  PyInterpreterView_Close(view);
  return 0;
}
TEST(Pep788Test, NestedEnsureFromViewOutlivesTheGuard) {
  EXPECT_EQ(RunChild("NestedEnsureOutlivesTheGuard"), Clean());
}

SCENARIO(DelaysSubinterpreter) {
  StartPython();
  SubInterpreter sub(SubInterpreter::kShared);
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  std::promise<void> ready, begun;
  std::function<void()> begin = [&] { begun.set_value(); };
  AtExit(&begin);
  std::atomic<bool> ended{false};
  std::thread thread([&] {
    PyInterpreterGuard* guard = PyInterpreterGuard_FromView(view);
    ready.set_value();
    begun.get_future().wait();
    for (int i = 0; i < 200; ++i) {
      PyThreadStateToken* token = PyThreadState_Ensure(guard);
      REQUIRE(token != nullptr);
      CallPython();
      PyThreadState_Release(token);
    }
    REQUIRE(!ended);
    PyInterpreterGuard_Close(guard);
  });
  Detached([&] { ready.get_future().wait(); });
  sub.End();
  ended = true;
  thread.join();
  REQUIRE(PyInterpreterGuard_FromView(view) == nullptr);
  PyInterpreterView_Close(view);
  CallPython();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, GuardDelaysTheEndOfASubinterpreter) {
  EXPECT_EQ(RunChild("DelaysSubinterpreter"), Clean());
}

SCENARIO(EnsureThenClose) {
  StartPython();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  auto& inside = *new std::promise<void>;
  auto& never = *new std::promise<void>;
  std::thread([&inside, &never, guard] {
    PyThreadStateToken* token = PyThreadState_Ensure(guard);
    REQUIRE(token != nullptr);
    PyInterpreterGuard_Close(guard);
    CallPython();
    PyEval_SaveThread();
    inside.set_value();
    never.get_future().wait();
  }).detach();
  Detached([&] { inside.get_future().wait(); });
  REQUIRE(Py_FinalizeEx() == 0);  // does not wait for the daemon
  _exit(0);
}
TEST(Pep788Test, EnsureThenCloseDoesNotDelayFinalization) {
  EXPECT_EQ(RunChild("EnsureThenClose"), Clean());
}

// While finalization waits for a guard that is not this thread's.
SCENARIO(AskWhileItWaits) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  PyInterpreterGuard* held = PyInterpreterGuard_FromCurrent();
  std::promise<void> begun;
  std::function<void()> begin = [&] {
    // The first callback of all: everybody may still have a guard.
    PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
    REQUIRE(guard != nullptr);
    PyInterpreterGuard_Close(guard);
    begun.set_value();
  };
  AtExit(&begin);
  std::thread thread([&] {
    begun.get_future().wait();
    // Here pyhold's gate closes sooner or later; what CPython says stays.
    for (int i = 0; !kGivesGuardsUntilTheEnd || i < 1000; ++i) {
      PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
      if (token == nullptr) break;
      PyThreadState_Release(token);
    }
    PyInterpreterGuard* guard = PyInterpreterGuard_FromView(view);
    REQUIRE((guard != nullptr) == kGivesGuardsUntilTheEnd);
    if (guard != nullptr) PyInterpreterGuard_Close(guard);
    // With the guard that is open, it can be entered.
    PyThreadStateToken* token = PyThreadState_Ensure(held);
    REQUIRE(token != nullptr);
    CallPython();
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(held);
  });
  REQUIRE(Py_FinalizeEx() == 0);
  thread.join();
  PyInterpreterView_Close(view);
  return 0;
}
TEST(Pep788Test, NewGuardsWhileFinalizationWaits) {
  EXPECT_EQ(RunChild("AskWhileItWaits"), Clean());
}

SCENARIO(AtexitCallbacks) {
  StartPython();
  PyInterpreterView* view = nullptr;
  int calls = 0;
  std::function<void()> ask = [&] {
    // Last registered, first called: the second one is older than the view.
    bool expected = ++calls <= 2;
    PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
    REQUIRE((guard != nullptr) == expected);
    if (expected)
      PyInterpreterGuard_Close(guard);
    else
      REQUIRE(Raised(FinalizationError()));
    guard = PyInterpreterGuard_FromView(view);
    REQUIRE((guard != nullptr) == expected);
    if (expected) PyInterpreterGuard_Close(guard);
    PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
    REQUIRE((token != nullptr) == expected);
    if (expected) PyThreadState_Release(token);
    PyInterpreterView* current = PyInterpreterView_FromCurrent();
    REQUIRE(current != nullptr);
    PyInterpreterView_Close(current);
    REQUIRE(PyErr_Occurred() == nullptr);
    CallPython();
  };
  AtExit(&ask);
  view = PyInterpreterView_FromCurrent();
  AtExit(&ask);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(calls == 2);
  PyInterpreterView_Close(view);
  return 0;
}
TEST(Pep788Test, GuardsInAtexitCallbacks) {
  EXPECT_EQ(RunChild("AtexitCallbacks"), Clean());
}

// A thread that holds a guard until a callback, registered before the first
// view, tells it to stop.
SCENARIO(CallbackStopsTheThread) {
  StartPython();
  std::promise<void> stop, ready;
  std::function<void()> tell = [&] { stop.set_value(); };
  AtExit(&tell);
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  std::thread thread([&] {
    PyInterpreterGuard* guard = PyInterpreterGuard_FromView(view);
    ready.set_value();
    auto told = stop.get_future().wait_for(std::chrono::seconds(60));
    REQUIRE(told == std::future_status::ready);
    PyInterpreterGuard_Close(guard);
  });
  Detached([&] { ready.get_future().wait(); });
  REQUIRE(Py_FinalizeEx() == 0);
  thread.join();
  PyInterpreterView_Close(view);
  return 0;
}
TEST(Pep788Test, CallbacksRegisteredEarlierRunBeforeItWaits) {
  EXPECT_EQ(RunChild("CallbackStopsTheThread"), Clean());
}

SCENARIO(Teardown) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  bool called = false;
  std::function<void()> ask = [&] {
    called = true;
    REQUIRE(PyInterpreterGuard_FromCurrent() == nullptr);
    REQUIRE(Raised(FinalizationError()));
    REQUIRE(PyInterpreterGuard_FromView(view) == nullptr);
    REQUIRE(PyThreadState_EnsureFromView(view) == nullptr);
    REQUIRE(PyErr_Occurred() == nullptr);
    PyInterpreterView* current = PyInterpreterView_FromCurrent();
    REQUIRE(current != nullptr);
    REQUIRE(PyInterpreterGuard_FromView(current) == nullptr);
    PyInterpreterView_Close(current);
    PyInterpreterView* main = PyInterpreterView_FromMain();
    REQUIRE(main != nullptr);
    REQUIRE(PyThreadState_EnsureFromView(main) == nullptr);
    PyInterpreterView_Close(main);
    REQUIRE(PyErr_Occurred() == nullptr);
  };
  AtTeardown(&ask);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(called);
  REQUIRE(PyInterpreterGuard_FromView(view) == nullptr);
  REQUIRE(PyThreadState_EnsureFromView(view) == nullptr);
  PyInterpreterView_Close(view);  // allowed after the end as well
  return 0;
}
TEST(Pep788Test, TooLateIsRefusedWithAnExceptionWhereOneIsPromised) {
  EXPECT_EQ(RunChild("Teardown"), Clean());
}

// A view that is made when nobody has one, and it is too late for a gate.
SCENARIO(FirstViewAtTeardown) {
  StartPython();
  Exec("import threading");
  bool called = false;
  std::function<void()> ask = [&] {
    called = true;
    PyInterpreterView* view = PyInterpreterView_FromCurrent();
    REQUIRE(view != nullptr && PyErr_Occurred() == nullptr);
    REQUIRE(PyInterpreterGuard_FromView(view) == nullptr);
    REQUIRE(PyThreadState_EnsureFromView(view) == nullptr);
    PyInterpreterView_Close(view);
    REQUIRE(PyInterpreterGuard_FromCurrent() == nullptr);
    REQUIRE(Raised(FinalizationError()));
  };
  AtTeardown(&ask);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(called);
  return 0;
}
TEST(Pep788Test, FirstViewAtTeardownIsMadeAndRefuses) {
  EXPECT_EQ(RunChild("FirstViewAtTeardown"), Clean());
}

// --- The main interpreter's views ---

// Calls the main interpreter through a view of it, or is refused.
void CallMain(PyInterpreterView* view, bool works) {
  PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
  REQUIRE((token != nullptr) == works);
  if (!works) return;
  REQUIRE(AttachedId() == 0);
  CallPython();
  PyThreadState_Release(token);
  PyInterpreterGuard* guard = PyInterpreterGuard_FromView(view);
  REQUIRE(guard != nullptr);
  PyInterpreterGuard_Close(guard);
}

SCENARIO(MainView) {
  PyInterpreterView* before = PyInterpreterView_FromMain();
  REQUIRE(before != nullptr);
  REQUIRE(PyInterpreterGuard_FromView(before) == nullptr);
  REQUIRE(PyThreadState_EnsureFromView(before) == nullptr);

  StartPython();
  OnNewThread([&] {
    // No state, and nobody was here before.
    PyInterpreterView* view = PyInterpreterView_FromMain();
    CallMain(view, kMainIsKnownByItself);
    CallMain(before, kMainIsKnownByItself);
    PyInterpreterView_Close(view);
  });
  CallMain(before, true);  // attached, it makes itself known
  OnNewThread([&] {
    CallMain(before, true);
    PyInterpreterView* view = PyInterpreterView_FromMain();
    CallMain(view, true);
    PyInterpreterView_Close(view);
  });
  // Attached to another interpreter.
  SubInterpreter sub(SubInterpreter::kShared);
  if (!kSeesAllStates) PyInterpreterView_Close(PyInterpreterView_FromCurrent());
  PyInterpreterView* view = PyInterpreterView_FromMain();
  CallMain(view, true);
  REQUIRE(Attached() == sub.state());
  sub.End();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromView(view);
  REQUIRE(guard != nullptr);
  PyInterpreterGuard_Close(guard);
  REQUIRE(Py_FinalizeEx() == 0);

  CallMain(view, false);
  PyInterpreterView* after = PyInterpreterView_FromMain();
  REQUIRE(after != nullptr);
  CallMain(after, false);
  PyInterpreterView_Close(after);
  PyInterpreterView_Close(view);
  PyInterpreterView_Close(before);
  return 0;
}
TEST(Pep788Test, MainViewsBeforeAndAfterTheMainInterpreter) {
  EXPECT_EQ(RunChild("MainView"), Clean());
}

// A thread that is detached asks while others are attached, which 3.11 shows to
// everyone; and again while Python ends.
SCENARIO(MainViewWhileOthersAreAttached) {
  StartPython();
  PyThreadState* main_state = Attached();
  SubInterpreter sub(SubInterpreter::kShared);
  PyThreadState_Swap(main_state);
  std::atomic<bool> asked{false}, ended{false};
  std::thread thread([&] {
    PyInterpreterView* view = PyInterpreterView_FromMain();
    REQUIRE(view != nullptr);
    int refused = 0;
    while (refused < 1000 || !ended) {
      PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
      if (token != nullptr) {
        CallPython();
        PyThreadState_Release(token);
      } else {
        ++refused;
      }
      asked = true;
      if (kIsNative) break;  // it might never end
    }
    PyInterpreterView_Close(view);
  });
  while (!asked) Exec("sum(range(1000))");
  PyThreadState_Swap(sub.state());
  sub.End();
  REQUIRE(Py_FinalizeEx() == 0);
  ended = true;
  thread.join();
  return 0;
}
TEST(Pep788Test, MainViewIsUsedWhileOtherThreadsAreAttached) {
  EXPECT_EQ(RunChild("MainViewWhileOthersAreAttached"), Clean());
}

// A module's first view, where Python lets nobody import atexit: it need not be.
SCENARIO(NoGate) {
  StartPython();
  Exec(R"(
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'atexit': raise ImportError(name)
sys.modules.pop('atexit', None)
sys.meta_path.insert(0, Finder())
)");
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  REQUIRE(view != nullptr);
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  REQUIRE(guard != nullptr);
  PyInterpreterGuard_Close(guard);
  Exec("sys.meta_path.pop(0)");
  PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
  REQUIRE(token != nullptr);
  PyThreadState_Release(token);
  PyInterpreterView_Close(view);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, FirstViewImportsNothing) {
  EXPECT_EQ(RunChild("NoGate"), Clean());
}

SCENARIO(Again) {
  PyInterpreterView* main = PyInterpreterView_FromMain();
  PyInterpreterView* main_in_first = nullptr;
  PyInterpreterView* first = nullptr;
  for (int round = 0; round < 3; ++round) {
    StartPython();
    if (round == 0) main_in_first = PyInterpreterView_FromMain();
    PyInterpreterView* view = PyInterpreterView_FromCurrent();
    CallMain(view, true);
    CallMain(main, true);
    OnNewThread([&] {
      CallMain(view, true);
      CallMain(main, true);
      CallMain(main_in_first, true);
      if (first != nullptr) CallMain(first, kViewsOutliveTheirInterpreter);
    });
    if (first == nullptr)
      first = view;
    else
      PyInterpreterView_Close(view);
    REQUIRE(Py_FinalizeEx() == 0);
    CallMain(first, false);
    CallMain(main, false);
  }
  PyInterpreterView_Close(first);
  PyInterpreterView_Close(main_in_first);
  PyInterpreterView_Close(main);
  return 0;
}
TEST(Pep788Test, ViewsAfterPythonWasInitializedAgain) {
  EXPECT_EQ(RunChild("Again"), Clean());
}

// --- Out of memory ---

// Calls `fn` with its nth allocation failing. It says whether it worked, and has
// checked what it leaves. False: it has fewer allocations.
template <class Fn>
bool FailAllocationOf(Fn fn, int nth) {
  FailAllocation(nth);
  bool worked = fn();
  bool failed = FailAllocation(0);
  REQUIRE(worked || failed);  // it fails for no other reason
  return failed;
}

template <class Fn>
void FailEachAllocationOf(Fn fn) {
  for (int n = 1; FailAllocationOf(fn, n); ++n) REQUIRE(n < 1000);
}

bool MakeView() {
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  FailAllocation(-1);
  if (view != nullptr) PyInterpreterView_Close(view);
  REQUIRE(view != nullptr ? PyErr_Occurred() == nullptr
                          : Raised(PyExc_MemoryError));
  return view != nullptr;
}

bool MakeGuard() {
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  FailAllocation(-1);
  if (guard != nullptr) PyInterpreterGuard_Close(guard);
  REQUIRE(guard != nullptr ? PyErr_Occurred() == nullptr
                           : Raised(PyExc_MemoryError));
  return guard != nullptr;
}

// Python's objects come from malloc, too; but where there is no GIL.
void StartPythonWithMalloc() {
  if (kHasGil) setenv("PYTHONMALLOC", "malloc", 1);
  StartPython();
}

// The first view or guard makes the interpreter known: so each allocation has a
// process of its own. Ends with 3 if there are fewer than `argument`.
int FirstWithoutMemory(bool (*make)(), int nth, bool in_sub) {
  StartPythonWithMalloc();
  std::optional<SubInterpreter> sub;
  if (in_sub) sub.emplace(SubInterpreter::kShared);
#if defined(Py_DEBUG) || PY_VERSION_HEX >> 16 == 0x030C
  // Out of memory, an import fails assertions of CPython's; and in 3.12.1 one of
  // its failures crashes the end of a subinterpreter now and then.
  Exec("import atexit");
#endif
  if (!FailAllocationOf(make, nth)) return 3;
  REQUIRE(make());  // later
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  OnNewThread([&] {
    PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
    REQUIRE(token != nullptr);
    CallPython();
    PyThreadState_Release(token);
  });
  PyInterpreterView_Close(view);
  if (in_sub) sub->End();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
SCENARIO(FirstViewWithoutMemory) {
  return FirstWithoutMemory(MakeView, argument, /*in_sub=*/false);
}
SCENARIO(FirstGuardWithoutMemory) {
  return FirstWithoutMemory(MakeGuard, argument, /*in_sub=*/false);
}
SCENARIO(FirstInSubinterpreterWithoutMemory) {
  return FirstWithoutMemory(MakeView, argument, /*in_sub=*/true);
}
TEST(Pep788Test, EachAllocationOfTheFirstMayFail) {
  for (const char* scenario :
       {"FirstViewWithoutMemory", "FirstGuardWithoutMemory",
        "FirstInSubinterpreterWithoutMemory"}) {
    for (int n = 1;; ++n) {
      ChildResult result = RunChild(scenario, n);
      if (result.exit_code == 3) {
        EXPECT_GT(n, 1);
        break;
      }
      ASSERT_EQ(result, Clean()) << scenario << ", allocation " << n;
    }
  }
}

SCENARIO(OutOfMemory) {
  StartPythonWithMalloc();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  FailEachAllocationOf(MakeView);
  FailEachAllocationOf(MakeGuard);
  FailEachAllocationOf([] {
    PyInterpreterView* main = PyInterpreterView_FromMain();
    if (main != nullptr) PyInterpreterView_Close(main);
    REQUIRE(PyErr_Occurred() == nullptr);
    return main != nullptr;
  });
  auto guard_from_view = [&] {
    PyInterpreterGuard* another = PyInterpreterGuard_FromView(view);
    if (another != nullptr) PyInterpreterGuard_Close(another);
    return another != nullptr;
  };
  auto ensure = [&](bool with_guard) {
    const int was_attached = PyGILState_Check();
    PyThreadStateToken* token = with_guard ? PyThreadState_Ensure(guard)
                                           : PyThreadState_EnsureFromView(view);
    FailAllocation(-1);
    if (token != nullptr) {
      CallPython();
      PyThreadState_Release(token);
    }
    REQUIRE(PyGILState_Check() == was_attached);
    return token != nullptr;
  };
  for (bool with_guard : {false, true}) {
    // Each on a thread that has nothing yet.
    int n = 0;
    for (bool failed = true; failed;) {
      ++n;
      OnNewThread([&] {
        failed = FailAllocationOf([&] { return ensure(with_guard); }, n);
        REQUIRE(ensure(with_guard));  // later
      });
    }
    REQUIRE(n > 1);
    OnNewThread([&] {  // nested
      FailEachAllocationOf(guard_from_view);
      PyThreadStateToken* token = PyThreadState_Ensure(guard);
      FailEachAllocationOf([&] { return ensure(with_guard); });
      REQUIRE(PyErr_Occurred() == nullptr);
      PyThreadState_Release(token);
    });
  }
  PyInterpreterGuard_Close(guard);
  PyInterpreterView_Close(view);
  REQUIRE(Py_FinalizeEx() == 0);  // nothing that failed holds it
  return 0;
}
TEST(Pep788Test, EachAllocationMayFail) {
  EXPECT_EQ(RunChild("OutOfMemory"), Clean());
}

// --- Threads race finalization ---

SCENARIO(Race) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  constexpr int kThreads = 8, kCallsEach = 300;
  std::atomic<int> running{0};
  std::atomic<long> calls{0}, refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      ++running;
      for (int i = 0; kFinalizesUnderLoad || i < kCallsEach; ++i) {
        PyInterpreterGuard* guard = nullptr;
        PyThreadStateToken* token;
        if ((t + i) % 2 == 0) {
          guard = PyInterpreterGuard_FromView(view);
          if (guard == nullptr) break;
          token = PyThreadState_Ensure(guard);
          REQUIRE(token != nullptr);
        } else {
          token = PyThreadState_EnsureFromView(view);
          if (token == nullptr) break;
        }
        CallPython();
        ++calls;
        PyThreadState_Release(token);
        if (guard != nullptr) PyInterpreterGuard_Close(guard);
      }
      ++refused;
    });
  }
  Detached([&] {
    while (running < kThreads || calls < 20) std::this_thread::yield();
  });
  REQUIRE(Py_FinalizeEx() == 0);
  for (auto& thread : threads) thread.join();  // none hangs, none is ended
  REQUIRE(refused == kThreads);
  PyInterpreterView_Close(view);
  return 0;
}
TEST(Pep788Test, ThreadsRaceFinalization) {
  for (int i = 0; i < 10; ++i) ASSERT_EQ(RunChild("Race"), Clean());
}

// --- Random walks ---

// Threads ensure three interpreters in random order, let go of what is attached
// and take it back, each undoing its newest step only. Whatever the order: an
// ensure attaches the interpreter that was asked for, by the state that is
// attached if that is one of it; and what is undone leaves what was before.
SCENARIO(RandomWalks) {
  StartPython();
  PyThreadState* main_state = Attached();
  constexpr int kInterpreters = 3, kThreads = 4, kSteps = 3000;
  struct {
    PyInterpreterView* view;
    PyInterpreterGuard* guard;
    int64_t id;
  } interpreters[kInterpreters];
  std::vector<SubInterpreter> subs;
  for (int i = 0; i < kInterpreters; ++i) {
    if (i > 0) {
      subs.emplace_back(i == 1 ? SubInterpreter::kShared
                               : SubInterpreter::kOwn);
    }
    interpreters[i] = {PyInterpreterView_FromCurrent(),
                       PyInterpreterGuard_FromCurrent(), AttachedId()};
    PyThreadState_Swap(main_state);
  }
  auto walk = [&](unsigned seed) {
    std::minstd_rand random(seed);
    struct Step {
      PyThreadState* before;
      PyThreadStateToken* token;  // none: it let go of `before`
    };
    std::vector<Step> steps;
    PyThreadState* now = nullptr;  // what this thread is attached to
    auto undo = [&] {
      Step last = steps.back();
      steps.pop_back();
      if (last.token != nullptr)
        PyThreadState_Release(last.token);
      else
        PyEval_RestoreThread(last.before);
      now = last.before;
      // Detached, 3.11 shows what others are attached to.
      if (now != nullptr || kSeesAllStates) REQUIRE(Attached() == now);
    };
    for (int i = 0; i < kSteps; ++i) {
      PyThreadState* before = now;
      switch (random() % 4) {
        case 0:
          if (!steps.empty()) undo();
          break;
        case 1:
          if (before == nullptr || random() % 2 == 0) break;
          PyEval_SaveThread();
          now = nullptr;
          steps.push_back({before, nullptr});
          break;
        default: {
          if (steps.size() > 8) break;
          auto& wanted = interpreters[random() % kInterpreters];
          PyThreadStateToken* token =
              random() % 2 == 0 ? PyThreadState_Ensure(wanted.guard)
                                : PyThreadState_EnsureFromView(wanted.view);
          REQUIRE(token != nullptr && AttachedId() == wanted.id);
          now = Attached();
          if (before != nullptr && before->interp == now->interp)
            REQUIRE(now == before);
          steps.push_back({before, token});
          CallPython();
        }
      }
    }
    while (!steps.empty()) undo();
  };
  Detached([&] {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; ++t)
      threads.emplace_back(walk,
                           static_cast<unsigned>(argument) * kThreads + t);
    for (auto& thread : threads) thread.join();
  });
  for (auto& interpreter : interpreters) {
    PyInterpreterGuard_Close(interpreter.guard);
    PyInterpreterView_Close(interpreter.view);
  }
  while (!subs.empty()) {
    PyThreadState_Swap(subs.back().state());
    subs.back().End();
    subs.pop_back();
  }
  REQUIRE(Attached() == main_state);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(Pep788Test, RandomWalksOfThreadsThroughInterpreters) {
  for (int seed = 1; seed <= 5; ++seed)
    ASSERT_EQ(RunChild("RandomWalks", seed), Clean()) << "seed " << seed;
}

// --- Fork ---

SCENARIO(Fork) {
  StartPython();
  PyInterpreterView* view = PyInterpreterView_FromCurrent();
  std::promise<void> inside, leave;
  std::thread thread([&] {
    PyInterpreterGuard* guard = PyInterpreterGuard_FromView(view);
    inside.set_value();
    leave.get_future().wait();
    PyInterpreterGuard_Close(guard);
  });
  Detached([&] { inside.get_future().wait(); });
  PyOS_BeforeFork();
  pid_t pid = fork();
  if (pid == 0) {
    PyOS_AfterFork_Child();
    _exit(Py_FinalizeEx() == 0 ? 0 : 1);
  }
  PyOS_AfterFork_Parent();
  // A child that waits waits for ever: how long it is watched matters little.
  int status = 0;
  auto until = std::chrono::steady_clock::now() +
               std::chrono::seconds(kForkedChildWaits ? 2 : 60);
  pid_t ended = 0;
  while (ended == 0 && std::chrono::steady_clock::now() < until) {
    ended = waitpid(pid, &status, WNOHANG);
    std::this_thread::yield();
  }
  if (ended == 0) kill(pid, SIGKILL);
  REQUIRE((ended == 0) == kForkedChildWaits);
  REQUIRE(kForkedChildWaits || (WIFEXITED(status) && !WEXITSTATUS(status)));
  leave.set_value();
  REQUIRE(Py_FinalizeEx() == 0);
  thread.join();
  PyInterpreterView_Close(view);
  return 0;
}
TEST(Pep788Test, ForkedChildAndTheGuardsOfItsParent) {
  EXPECT_EQ(RunChild("Fork"), Clean());
}

}  // namespace
