// pyhold's guards beside PEP 788's: CPython's own on 3.15, pep788.h's before.
#include "tests/support/python.h"

#include <atomic>
#include <functional>
#include <future>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "pyhold/pep788_interop.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::FromPep788;
using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;

constexpr bool kIsNative = PYHOLD_PEP788_IS_NATIVE;

void CallPython() { REQUIRE(Eval("sum([1, 2, 3])") == 6); }

void OnNewThread(const std::function<void()>& fn) {
  ThreadStateDetachGuard detached;
  REQUIRE(detached);
  std::thread(fn).join();
}

int64_t AttachedId() {
  return PyInterpreterState_GetID(PyInterpreterState_Get());
}

SCENARIO(ThereAndBack) {
  StartPython();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  PyInterpreterView* native = PyInterpreterView_FromCurrent();
  auto check = [&] {
    PyThreadState* before = Attached();
    InterpreterRef ref = FromPep788(guard);
    REQUIRE(ref && ref.id() == 0);
    PyInterpreterGuard* another = ToPep788(ref);
    REQUIRE(another != nullptr);
    ref = FromPep788(another);
    PyInterpreterGuard_Close(another);
    REQUIRE(ref && ref.id() == 0);

    InterpreterView view = FromPep788(native);
    REQUIRE(view && view.id() == 0 && view.Hold());
    PyInterpreterView* back = ToPep788(view);
    REQUIRE(back != nullptr);
    PyThreadStateToken* token = PyThreadState_EnsureFromView(back);
    REQUIRE(token != nullptr && AttachedId() == 0);
    PyThreadState_Release(token);
    PyInterpreterView_Close(back);
    if (before != nullptr) REQUIRE(Attached() == before);

    REQUIRE(ToPep788(InterpreterRef()) == nullptr);
    REQUIRE(ToPep788(InterpreterView()) == nullptr);
  };
  PyErr_SetString(PyExc_ValueError, "the caller's");
  check();
  REQUIRE(PyErr_ExceptionMatches(PyExc_ValueError));
  PyErr_Clear();
  {
    ThreadStateDetachGuard detached;
    check();
  }
  OnNewThread(check);
  OnNewThread([&] {
    PyThreadStateToken* token = PyThreadState_Ensure(guard);
    check();
    PyThreadState_Release(token);
  });
  OnNewThread([&] {
    ThreadStateGuard attached(FromPep788(native));
    check();
  });

  SubInterpreter sub(SubInterpreter::kShared);
  PyInterpreterGuard* sub_guard = PyInterpreterGuard_FromCurrent();
  PyInterpreterView* sub_native = PyInterpreterView_FromCurrent();
  int64_t id = AttachedId();
  OnNewThread([&] {
    REQUIRE(FromPep788(sub_guard).id() == id);
    REQUIRE(FromPep788(sub_native).id() == id);
  });
  PyInterpreterGuard_Close(sub_guard);
  sub.End();
  REQUIRE(FromPep788(sub_native).status() == PYHOLD_EFINALIZING);
  PyInterpreterView_Close(sub_native);

  InterpreterView view = InterpreterView::Current();
  PyInterpreterGuard_Close(guard);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(FromPep788(native).status() == PYHOLD_EFINALIZING);
  REQUIRE(ToPep788(view) == nullptr);
  PyInterpreterView_Close(native);
  return 0;
}
TEST(InteropTest, ReferencesGoThereAndBack) {
  EXPECT_EQ(RunChild("ThereAndBack"), Clean());
}

SCENARIO(Nests) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  PyInterpreterView* native = PyInterpreterView_FromCurrent();
  OnNewThread([&] {
    ThreadStateGuard outer(view);
    PyThreadState* state = Attached();
    PyThreadStateToken* token = PyThreadState_EnsureFromView(native);
    REQUIRE(Attached() == state);
    {
      ThreadStateGuard inner(view);
      REQUIRE(Attached() == state);
    }
    {
      ThreadStateDetachGuard detached;
      PyThreadStateToken* again = PyThreadState_EnsureFromView(native);
      REQUIRE(Attached() == state);
      PyThreadState_Release(again);
    }
    PyThreadState_Release(token);
    REQUIRE(Attached() == state);
    CallPython();
  });
  OnNewThread([&] {
    PyThreadStateToken* token = PyThreadState_EnsureFromView(native);
    PyThreadState* state = Attached();
    {
      ThreadStateGuard guard(view);
      REQUIRE(Attached() == state);
      {
        ThreadStateDetachGuard detached;
        ThreadStateGuard inner(view);
        REQUIRE(Attached() == state);
        CallPython();
      }
      REQUIRE(Attached() == state);
    }
    REQUIRE(Attached() == state);
    PyEval_SaveThread();
    {
      ThreadStateGuard guard(view);
      REQUIRE(Attached() == state);
    }
    PyEval_RestoreThread(state);
    PyThreadState_Release(token);
  });
  OnNewThread([&] {  // the state that pyhold keeps serves both
    PyThreadState* state;
    {
      ThreadStateGuard guard(view);
      state = Attached();
    }
    for (int i = 0; i < 3; ++i) {
      PyThreadStateToken* token = PyThreadState_EnsureFromView(native);
      REQUIRE(Attached() == state);
      CallPython();
      PyThreadState_Release(token);
    }
    ThreadStateGuard guard(view);
    REQUIRE(Attached() == state);
  });
  PyInterpreterView_Close(native);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(InteropTest, EachNestsInTheOther) {
  EXPECT_EQ(RunChild("Nests"), Clean());
}

// A guard keeps the interpreter when pyhold's gate has closed: for its owner.
SCENARIO(GuardOutlivesTheGate) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  PyInterpreterGuard* guard = PyInterpreterGuard_FromCurrent();
  InterpreterRef ref = FromPep788(guard);
  std::thread thread([&] {
    while (ThreadStateGuard(view)) std::this_thread::yield();
    // The gate is closed. A ref gives a guard, where CPython gives guards.
    PyInterpreterGuard* another = ToPep788(ref);
    REQUIRE((another != nullptr) == kIsNative);
    if (another != nullptr) PyInterpreterGuard_Close(another);
    REQUIRE(FromPep788(guard).status() == PYHOLD_EFINALIZING);
    ref = InterpreterRef();
    PyThreadStateToken* token = PyThreadState_Ensure(guard);
    REQUIRE(token != nullptr);
    CallPython();
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
  });
  REQUIRE(Py_FinalizeEx() == 0);
  thread.join();
  return 0;
}
TEST(InteropTest, GuardOutlivesTheGate) {
  EXPECT_EQ(RunChild("GuardOutlivesTheGate"), Clean());
}

// Half of the threads use pyhold, half PEP 788's API.
SCENARIO(Race) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  PyInterpreterView* native = PyInterpreterView_FromCurrent();
  std::atomic<int> running{0};
  std::atomic<bool> refused{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      ++running;
      if (t % 2 == 0) {
        while (ThreadStateGuard guard{view}) {
          CallPython();
          PyThreadStateToken* token = PyThreadState_EnsureFromView(native);
          if (token == nullptr) continue;
          CallPython();
          PyThreadState_Release(token);
        }
        refused = true;
      } else {
        // CPython 3.15.0 never ends while threads go on asking it.
        while (!refused) {
          PyThreadStateToken* token = PyThreadState_EnsureFromView(native);
          if (token == nullptr) break;
          CallPython();
          if (ThreadStateGuard guard{view}) CallPython();
          PyThreadState_Release(token);
        }
      }
    });
  }
  {
    ThreadStateDetachGuard detached;
    while (running < 8) std::this_thread::yield();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  for (auto& thread : threads) thread.join();
  PyInterpreterView_Close(native);
  return 0;
}
TEST(InteropTest, ThreadsOfBothRaceFinalization) {
  for (int i = 0; i < 10; ++i) ASSERT_EQ(RunChild("Race"), Clean());
}

}  // namespace
