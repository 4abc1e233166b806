// Ensure, release, detach and views on a real interpreter that goes on.
// What ends one is in finalize_test.cc.
#include "tests/support/python.h"

#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "pyhold/pyhold.h"

namespace {

using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;

// The main thread is attached to the main interpreter in each test's body.
class EnsureTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!Py_IsInitialized()) StartPython();
    view_ = new InterpreterView(InterpreterView::Main());
    ASSERT_EQ(view_->status(), PYHOLD_OK);
  }

  // Runs `fn` on a new thread while the main thread is detached.
  static void OnForeignThread(const std::function<void()>& fn) {
    PyThreadState* saved = PyEval_SaveThread();
    std::thread(fn).join();
    PyEval_RestoreThread(saved);
  }

  static const InterpreterView& view() { return *view_; }
  // The same, with states that are not kept.
  static InterpreterView per_call() { return view_->With(PYHOLD_PER_CALL); }

 private:
  static inline InterpreterView* view_;
};

// A thread without a state: on 3.11 "current" is another's, or none.
void ExpectNoState() {
  EXPECT_EQ(PyGILState_GetThisThreadState(), nullptr);
  if (PY_VERSION_HEX >= 0x030C0000) {
    EXPECT_EQ(Attached(), nullptr);
  }
}

void CallPython() { EXPECT_EQ(Eval("sum([1, 2, 3])"), 6); }

TEST_F(EnsureTest, ForeignThreadGetsAStateAndLosesIt) {
  OnForeignThread([] {
    ExpectNoState();
    {
      ThreadStateGuard guard(per_call());
      ASSERT_TRUE(guard);
      EXPECT_EQ(Attached()->interp, PyInterpreterState_Main());
      CallPython();
    }
    ExpectNoState();
  });
}

TEST_F(EnsureTest, NestsToDepth100) {
  std::function<void(int)> nest = [&](int depth) {
    ThreadStateGuard guard(per_call());
    ASSERT_TRUE(guard);
    static thread_local PyThreadState* state;
    if (depth == 100) state = Attached();
    EXPECT_EQ(Attached(), state);
    if (depth > 1) nest(depth - 1);
    EXPECT_EQ(Attached(), state);
    CallPython();
  };
  nest(100);
  OnForeignThread([&] {
    nest(100);
    ExpectNoState();
  });
}

TEST_F(EnsureTest, NestsToDepth100WithDetachingInBetween) {
  std::function<void(int, PyThreadState*)> nest = [&](int depth,
                                                      PyThreadState* state) {
    ThreadStateGuard guard(per_call());
    ASSERT_TRUE(guard);
    if (state != nullptr) {
      EXPECT_EQ(Attached(), state);
    }
    state = Attached();
    if (depth > 1) {
      if (depth % 2 == 0) {
        ThreadStateDetachGuard detached;
        ASSERT_TRUE(detached);
        nest(depth - 1, state);
      } else {
        PyThreadState* saved = PyEval_SaveThread();
        nest(depth - 1, state);
        PyEval_RestoreThread(saved);
      }
    }
    EXPECT_EQ(Attached(), state);
    CallPython();
  };
  nest(100, nullptr);
  OnForeignThread([&] {
    nest(100, nullptr);
    ExpectNoState();
  });
}

TEST_F(EnsureTest, CApiRefusesNull) {
  EXPECT_EQ(pyhold_thread_ensure(nullptr), PYHOLD_EMISUSE);
  EXPECT_EQ(pyhold_thread_ensure_view(nullptr), PYHOLD_EMISUSE);
}

// On 3.11 another thread's state looks like one's own, and where there are
// subinterpreters an attached state need not be the gilstate.
TEST_F(EnsureTest, DetachGuardKnowsAThreadThatIsNotAttached) {
  SubInterpreter sub(SubInterpreter::kShared);
  std::thread([&] {
    for (int i = 0; i < 3; ++i) {
      ThreadStateDetachGuard detached;
      EXPECT_EQ(detached.status(), PYHOLD_EDETACHED);
    }
  }).join();
  sub.End();
}

#if PY_VERSION_HEX < 0x030C0000
// A state that this thread vouched for is deleted, and another has its address.
TEST_F(EnsureTest, AnotherStateAtAKnownAddressIsNotOnesOwn) {
  SubInterpreter sub(SubInterpreter::kShared);
  PyThreadState* sub_state = PyThreadState_Swap(sub.before());
  PyThreadState* visitor = PyThreadState_New(sub.interp());
  PyThreadState_Swap(visitor);
  EXPECT_TRUE(InterpreterView::Current());
  PyThreadState_Clear(visitor);
  PyThreadState_Swap(sub.before());
  PyThreadState_Delete(visitor);

  std::vector<PyThreadState*> states;
  do {
    states.push_back(PyThreadState_New(sub.before()->interp));
  } while (states.back() != visitor && states.size() < 100);
  EXPECT_EQ(states.back(), visitor);
  PyEval_SaveThread();
  std::promise<void> attached, seen;
  std::thread other([&] {
    PyEval_RestoreThread(states.back());
    attached.set_value();
    seen.get_future().wait();
    PyEval_SaveThread();
  });
  attached.get_future().wait();
  {
    ThreadStateDetachGuard detached;
    EXPECT_EQ(detached.status(), PYHOLD_EDETACHED);
  }
  seen.set_value();
  other.join();
  PyEval_RestoreThread(sub.before());
  for (PyThreadState* state : states) {
    PyThreadState_Clear(state);
    PyThreadState_Delete(state);
  }
  PyThreadState_Swap(sub_state);
  sub.End();
}
#endif

TEST_F(EnsureTest, CApiNestsToo) {
  OnForeignThread([] {
    InterpreterView view = per_call();
    for (int i = 0; i < 100; ++i)
      ASSERT_EQ(pyhold_thread_ensure_view(view.raw()), PYHOLD_OK);
    InterpreterRef ref = view.Hold();
    ASSERT_EQ(pyhold_thread_ensure(ref.raw()), PYHOLD_OK);
    PyThreadState* state = Attached();
    for (int i = 0; i < 100; ++i) {
      pyhold_thread_release();
      EXPECT_EQ(Attached(), state);
    }
    CallPython();
    pyhold_thread_release();
    ExpectNoState();
  });
}

TEST_F(EnsureTest, KeptStateIsMadeInsideOfAnotherInterpreter) {
  SubInterpreter sub(SubInterpreter::kShared);
  InterpreterView sub_view = InterpreterView::Current();
  OnForeignThread([&] {
    ThreadStateGuard away(sub_view);
    PyThreadState* state = Attached();
    for (int i = 0; i < 3; ++i) {
      {
        ThreadStateGuard main(view());
        CallPython();
      }
      ASSERT_EQ(Attached(), state);
      CallPython();
    }
  });
  sub.End();
}

// The slot that is looked at first is that of the kept state.
TEST_F(EnsureTest, KeptStateIsNotTakenForAttachedWhileAnotherIs) {
  SubInterpreter sub(SubInterpreter::kShared);
  OnForeignThread([&] {
    {
      ThreadStateGuard guard(view());
    }
    PyThreadState* state = PyThreadState_New(sub.interp());
    PyEval_RestoreThread(state);
    EXPECT_TRUE(InterpreterView::Current());  // 3.11 takes its word for it
    {
      ThreadStateGuard back(view());
      ASSERT_TRUE(back);
      EXPECT_EQ(Attached()->interp, PyInterpreterState_Main());
      CallPython();
    }
    EXPECT_EQ(Attached(), state);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
  });
  sub.End();
}

// --- The three cases of Cython's `with gil` ---

TEST_F(EnsureTest, CythonCaseNeverHadAState) {
  OnForeignThread([] {
    ThreadStateGuard guard(view());
    ASSERT_TRUE(guard);
    CallPython();
  });
}

TEST_F(EnsureTest, CythonCaseHoldsTheGilNow) {
  PyThreadState* state = Attached();
  {
    ThreadStateGuard guard(view());
    ASSERT_TRUE(guard);
    EXPECT_EQ(Attached(), state);
  }
  EXPECT_EQ(Attached(), state);
}

TEST_F(EnsureTest, CythonCaseHadItButLetItGo) {
  PyThreadState* state = PyEval_SaveThread();
  {
    ThreadStateGuard guard(view());
    ASSERT_TRUE(guard);
    EXPECT_EQ(Attached(), state);
    CallPython();
  }
  if (PY_VERSION_HEX >= 0x030C0000) {
    EXPECT_EQ(Attached(), nullptr);
  }
  EXPECT_EQ(PyGILState_GetThisThreadState(), state);
  PyEval_RestoreThread(state);
}

// A thread of the threading module's that lets go of the GIL and comes back.
TEST_F(EnsureTest, StateOfAPythonThreadIsUsed) {
  static PyThreadState* seen;
  static PyMethodDef method = {
      "probe",
      [](PyObject*, PyObject*) -> PyObject* {
        PyThreadState* state = PyEval_SaveThread();
        {
          ThreadStateGuard guard(view());
          seen = guard && Attached() == state ? state : nullptr;
        }
        PyEval_RestoreThread(state);
        Py_RETURN_NONE;
      },
      METH_NOARGS, nullptr};
  PyObject* probe = PyCFunction_New(&method, nullptr);
  PyObject_SetAttrString(PyImport_AddModule("__main__"), "probe", probe);
  Py_DECREF(probe);
  Exec(
      "import threading\n"
      "t = threading.Thread(target=probe); t.start(); t.join()\n");
  EXPECT_NE(seen, nullptr);
}

// --- Together with PyGILState ---

TEST_F(EnsureTest, PyGILStateInsideAGuardNests) {
  OnForeignThread([] {
    ThreadStateGuard guard(view());
    ASSERT_TRUE(guard);
    PyThreadState* state = Attached();
    PyGILState_STATE old = PyGILState_Ensure();
    EXPECT_EQ(old, PyGILState_LOCKED);
    EXPECT_EQ(Attached(), state);
    CallPython();
    PyGILState_Release(old);
    EXPECT_EQ(Attached(), state);
  });
}

TEST_F(EnsureTest, GuardInsidePyGILStateNests) {
  OnForeignThread([] {
    PyGILState_STATE old = PyGILState_Ensure();
    PyThreadState* state = Attached();
    {
      ThreadStateGuard guard(view());
      ASSERT_TRUE(guard);
      EXPECT_EQ(Attached(), state);
      PyThreadState* saved = PyEval_SaveThread();
      {
        ThreadStateGuard again(view());
        ASSERT_TRUE(again);
        EXPECT_EQ(Attached(), state);
        PyGILState_STATE inner = PyGILState_Ensure();
        CallPython();
        PyGILState_Release(inner);
      }
      PyEval_RestoreThread(saved);
    }
    EXPECT_EQ(Attached(), state);
    PyGILState_Release(old);
    ExpectNoState();
  });
}

TEST_F(EnsureTest, PyGILStateInsideADetachedScopeComesBack) {
  OnForeignThread([] {
    ThreadStateGuard guard(view());
    PyThreadState* state = Attached();
    {
      ThreadStateDetachGuard detached;
      ASSERT_TRUE(detached);
      PyGILState_STATE old = PyGILState_Ensure();
      EXPECT_EQ(Attached(), state);
      CallPython();
      PyGILState_Release(old);
    }
    EXPECT_EQ(Attached(), state);
  });
}

// --- Detaching ---

TEST_F(EnsureTest, DetachedScopeLetsOthersIn) {
  std::thread other;
  {
    ThreadStateDetachGuard detached;
    ASSERT_TRUE(detached);
    other = std::thread([] {
      ThreadStateGuard guard(view());
      EXPECT_TRUE(guard);
      CallPython();
    });
    other.join();  // would never end with the GIL
  }
  CallPython();
}

TEST_F(EnsureTest, DetachingADetachedThreadIsRefused) {
  OnForeignThread([] {
    ThreadStateDetachGuard detached;
    EXPECT_EQ(detached.status(), PYHOLD_EDETACHED);
  });
}

TEST_F(EnsureTest, HoldsAndViewsNeedAnAttachedState) {
  OnForeignThread([] {
    EXPECT_EQ(InterpreterRef::Current().status(), PYHOLD_EDETACHED);
    EXPECT_EQ(InterpreterView::Current().status(), PYHOLD_EDETACHED);
    EXPECT_TRUE(InterpreterView::Main());  // known: needs none
  });
}

// Also while another thread is attached, which 3.11 shows to everyone.
TEST_F(EnsureTest, AnotherThreadsStateIsNotMistakenForOnesOwn) {
  std::promise<void> go;
  std::promise<void> done;
  std::thread other([&] {
    go.get_future().wait();
    EXPECT_EQ(InterpreterRef::Current().status(), PYHOLD_EDETACHED);
    EXPECT_EQ(InterpreterView::Current().status(), PYHOLD_EDETACHED);
    EXPECT_EQ(ThreadStateDetachGuard().status(), PYHOLD_EDETACHED);
    done.set_value();
    ThreadStateGuard guard(view());  // waits for the main thread
    EXPECT_TRUE(guard);
    CallPython();
  });
  go.set_value();  // attached
  done.get_future().wait();
  CallPython();
  ThreadStateDetachGuard detached;
  other.join();
}

// --- Failures ---

TEST_F(EnsureTest, EmptyViewsAndRefsSaySo) {
  EXPECT_EQ(ThreadStateGuard(InterpreterView()).status(), PYHOLD_EMISUSE);
  EXPECT_EQ(ThreadStateGuard(InterpreterRef()).status(), PYHOLD_EMISUSE);
  EXPECT_EQ(InterpreterView().Hold().status(), PYHOLD_EMISUSE);
  CallPython();
}

TEST_F(EnsureTest, PendingExceptionIsLeftAlone) {
  PyErr_SetString(PyExc_KeyError, "mine");
  {
    InterpreterView another = InterpreterView::Current();
    InterpreterRef ref = InterpreterRef::Current();
    ThreadStateGuard guard(view());
    ThreadStateDetachGuard detached;
    EXPECT_TRUE(another && ref && guard && detached);
  }
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_KeyError));
  PyErr_Clear();
}

// --- set_daemon ---

TEST_F(EnsureTest, SetDaemonNeedsAnEnsure) {
  EXPECT_EQ(pyhold_thread_set_daemon(true), PYHOLD_EMISUSE);
  ThreadStateGuard guard(view());
  EXPECT_EQ(pyhold_thread_set_daemon(true), PYHOLD_OK);
  EXPECT_EQ(pyhold_thread_set_daemon(false), PYHOLD_OK);
  ThreadStateDetachGuard detached;
  EXPECT_EQ(pyhold_thread_set_daemon(true), PYHOLD_EMISUSE);
}

// --- Subinterpreters ---

class SubInterpreterTest : public EnsureTest,
                           public testing::WithParamInterface<int> {
 protected:
  static SubInterpreter::Gil gil() {
    return static_cast<SubInterpreter::Gil>(GetParam());
  }
};

INSTANTIATE_TEST_SUITE_P(
    Gil, SubInterpreterTest,
    SubInterpreter::kHasOwnGil
        ? testing::Values(SubInterpreter::kShared, SubInterpreter::kOwn)
        : testing::Values(SubInterpreter::kShared, SubInterpreter::kShared),
    [](const auto& info) { return info.index == 0 ? "Shared" : "Own"; });

TEST_P(SubInterpreterTest, ForeignThreadGoesWhereItAsked) {
  SubInterpreter sub(gil());
  InterpreterView sub_view = InterpreterView::Current();
  ASSERT_TRUE(sub_view);
  Exec("where = 'sub'");
  OnForeignThread([&] {
    ThreadStateGuard guard(sub_view);
    ASSERT_TRUE(guard);
    EXPECT_EQ(Attached()->interp, sub.interp());
    EXPECT_EQ(Eval("int(where == 'sub')"), 1);
  });
  sub.End();
}

// Code that names no interpreter means the one that its thread came from.
TEST_P(SubInterpreterTest, OfThisThreadIsWhereTheThreadWas) {
  EXPECT_EQ(InterpreterView::OfThisThread(InterpreterView()).id(), 0);
  SubInterpreter sub(gil());
  InterpreterView sub_view = InterpreterView::Current();
  EXPECT_EQ(InterpreterView::OfThisThread(view()).id(), sub_view.id());
  {
    ThreadStateDetachGuard detached;
    ASSERT_TRUE(detached);
    EXPECT_EQ(InterpreterView::OfThisThread(view()).id(), sub_view.id());
    ThreadStateGuard guard(InterpreterView::OfThisThread(view()));
    ASSERT_TRUE(guard);
    EXPECT_EQ(Attached(), sub.state());
  }
  OnForeignThread([&] {  // it was nowhere
    EXPECT_EQ(InterpreterView::OfThisThread(InterpreterView()).status(),
              PYHOLD_ENOINTERP);
    EXPECT_EQ(InterpreterView::OfThisThread(sub_view).id(), sub_view.id());
    ThreadStateGuard main_guard(view());
    ThreadStateGuard sub_guard(sub_view);
    ThreadStateDetachGuard detached;
    EXPECT_EQ(InterpreterView::OfThisThread(view()).id(), sub_view.id());
  });
  sub.End();
}

// Py_BEGIN_ALLOW_THREADS inside a guard lets go of what the guard attached, and not of
// what the thread had before.
TEST_P(SubInterpreterTest, OfThisThreadIsWhatAGuardAttached) {
  SubInterpreter sub(gil());
  InterpreterView sub_view = InterpreterView::Current();
  for (bool had_main : {false, true}) {
    OnForeignThread([&] {
      if (had_main) {
        ThreadStateGuard guard(view());  // whose state is kept
        ASSERT_TRUE(guard);
      }
      ThreadStateGuard guard(sub_view);
      ASSERT_TRUE(guard);
      PyThreadState* state = PyEval_SaveThread();
      EXPECT_EQ(InterpreterView::OfThisThread(view()).id(), sub_view.id());
      {
        ThreadStateGuard again(InterpreterView::OfThisThread(view()));
        ASSERT_TRUE(again);
        EXPECT_EQ(Attached(), state);
      }
      PyEval_RestoreThread(state);
      CallPython();
    });
  }
  sub.End();
}

// 3.11 shows to this thread what another is attached to.
TEST_P(SubInterpreterTest, OfThisThreadIsNotWhereAnotherThreadIs) {
  SubInterpreter sub(gil());
  InterpreterView sub_view = InterpreterView::Current();
  std::thread([&] {
    EXPECT_EQ(InterpreterView::OfThisThread(InterpreterView()).status(),
              PYHOLD_ENOINTERP);
    EXPECT_EQ(InterpreterView::OfThisThread(view()).id(), 0);
  }).join();
  sub.End();
}

// In destructors while an interpreter is torn down: never the fallback.
TEST_P(SubInterpreterTest, OfThisThreadIsNoOtherWhileAnInterpreterEnds) {
  static std::int64_t sub_id;
  static int calls;
  static const InterpreterView* main_view;
  main_view = &view();
  calls = 0;
  SubInterpreter sub(gil());
  sub_id = InterpreterView::Current().id();
  PyCapsule_Destructor probe = [](PyObject*) {
    for (bool detaches : {false, true}) {
      PyThreadState* state = detaches ? PyEval_SaveThread() : nullptr;
      InterpreterView here = InterpreterView::OfThisThread(*main_view);
      // 3.11: PyGILState means the main one, and all that could tell better is gone
      // when the interpreter's dict goes.
      const bool can_tell =
          PY_VERSION_HEX >= 0x030C0000 || (!detaches && calls < 2);
      if (here && can_tell) {
        EXPECT_EQ(here.id(), sub_id);
      }
      if (!here) {
        EXPECT_EQ(here.status(), PYHOLD_EFINALIZING);
      }
      if (detaches) PyEval_RestoreThread(state);
      ++calls;
    }
  };
  // One goes with the modules, the other with the interpreter's dict.
  for (PyObject* owner : {PyModule_GetDict(PyImport_AddModule("__main__")),
                          PyInterpreterState_GetDict(sub.interp())}) {
    PyObject* capsule = PyCapsule_New(&calls, nullptr, probe);
    PyDict_SetItemString(owner, "probe", capsule);
    Py_DECREF(capsule);
  }
  sub.End();
  EXPECT_EQ(calls, 4);
}

TEST_P(SubInterpreterTest, AToBToAOnAForeignThread) {
  SubInterpreter sub(gil());
  InterpreterView sub_view = InterpreterView::Current();
  OnForeignThread([&] {
    ThreadStateGuard a(view());
    ASSERT_TRUE(a);
    PyThreadState* state_a = Attached();
    {
      ThreadStateGuard b(sub_view);
      ASSERT_TRUE(b);
      PyThreadState* state_b = Attached();
      EXPECT_EQ(state_b->interp, sub.interp());
      {
        ThreadStateGuard a_again(view());
        ASSERT_TRUE(a_again);
        EXPECT_EQ(Attached(), state_a);
        CallPython();
        {
          ThreadStateGuard b_again(sub_view);
          ASSERT_TRUE(b_again);
          EXPECT_EQ(Attached(), state_b);
          CallPython();
        }
        EXPECT_EQ(Attached(), state_a);
      }
      EXPECT_EQ(Attached(), state_b);
      CallPython();
    }
    EXPECT_EQ(Attached(), state_a);
    CallPython();
  });
  sub.End();
}

TEST_P(SubInterpreterTest, AToBToAOnThePythonThreadThatMadeBoth) {
  PyThreadState* main_state = Attached();
  SubInterpreter sub(gil());
  InterpreterView sub_view = InterpreterView::Current();
  {
    // Not always in main_state: 3.12+ binds the new interpreter's state to the
    // thread, and knows no way back to the other one.
    ThreadStateGuard a(view());
    ASSERT_TRUE(a);
    EXPECT_EQ(Attached()->interp, main_state->interp);
    CallPython();
    ThreadStateGuard b(sub_view);
    ASSERT_TRUE(b);
    EXPECT_EQ(Attached()->interp, sub.interp());
    CallPython();
  }
  EXPECT_EQ(Attached(), sub.state());
  CallPython();
  sub.End();
  EXPECT_EQ(Attached(), main_state);
}

TEST_P(SubInterpreterTest, DetachedScopeOfASubinterpreter) {
  SubInterpreter sub(gil());
  InterpreterView sub_view = InterpreterView::Current();
  {
    ThreadStateDetachGuard detached;
    ASSERT_TRUE(detached);
    std::thread([&] {
      ThreadStateGuard guard(sub_view);
      EXPECT_TRUE(guard);
      CallPython();
    }).join();
  }
  EXPECT_EQ(Attached(), sub.state());
  sub.End();
}

// After a visit to a subinterpreter PyGILState must still find the state that
// the thread had: on 3.12+ each attach makes CPython forget it.
TEST_P(SubInterpreterTest, VisitLeavesPyGILStateAsItWas) {
  SubInterpreter sub(gil());
  InterpreterView sub_view = InterpreterView::Current();
  PyThreadState* sub_state = PyEval_SaveThread();
  std::thread([&] {
    PyGILState_STATE old = PyGILState_Ensure();
    PyThreadState* state = PyEval_SaveThread();
    {
      ThreadStateGuard guard(sub_view);
      ASSERT_TRUE(guard);
      CallPython();
    }
    EXPECT_EQ(PyGILState_GetThisThreadState(), state);
    {
      ThreadStateGuard guard(view());
      ASSERT_TRUE(guard);
      EXPECT_EQ(Attached(), state);
    }
    PyEval_RestoreThread(state);
    PyGILState_Release(old);
    ExpectNoState();
  }).join();
  PyEval_RestoreThread(sub_state);
  sub.End();
}

TEST_P(SubInterpreterTest, ForeignThreadVisitsManyInterpreters) {
  constexpr int kRounds = 5;
  for (int i = 0; i < kRounds; ++i) {
    SubInterpreter sub(gil());
    InterpreterView sub_view = InterpreterView::Current();
    std::int64_t id = sub_view.id();
    OnForeignThread([&] {
      for (int j = 0; j < 20; ++j) {
        ThreadStateGuard guard(j % 2 == 0 ? sub_view : view());
        ASSERT_TRUE(guard);
        CallPython();
      }
    });
    EXPECT_TRUE(InterpreterRef::Lookup(id));
    sub.End();
    EXPECT_EQ(InterpreterRef::Lookup(id).status(), PYHOLD_EFINALIZING);
    OnForeignThread([&] {
      ThreadStateGuard guard(sub_view);
      EXPECT_EQ(guard.status(), PYHOLD_EFINALIZING);
      ExpectNoState();
      ThreadStateGuard a(view());
      PyThreadState* state = Attached();
      EXPECT_FALSE(ThreadStateGuard(sub_view));
      EXPECT_EQ(Attached(), state);
      CallPython();
    });
    EXPECT_EQ(ThreadStateGuard(sub_view).status(), PYHOLD_EFINALIZING);
    CallPython();
  }
}

TEST_F(EnsureTest, LookupOfIds) {
  EXPECT_TRUE(InterpreterRef::Lookup(0));
  EXPECT_EQ(InterpreterRef::Lookup(0).state(), PyInterpreterState_Main());
  EXPECT_EQ(InterpreterRef::Lookup(123456).status(), PYHOLD_ENOINTERP);
  SubInterpreter sub(SubInterpreter::kShared);
  std::int64_t id = PyInterpreterState_GetID(sub.interp());
  EXPECT_EQ(InterpreterRef::Lookup(id).status(), PYHOLD_ENOINTERP);
  EXPECT_TRUE(InterpreterRef::Current());
  EXPECT_TRUE(InterpreterRef::Lookup(id));
  sub.End();
  EXPECT_EQ(InterpreterRef::Lookup(id).status(), PYHOLD_EFINALIZING);
}

// --- Misuse ---

using EnsureDeathTest = EnsureTest;

TEST_F(EnsureDeathTest, ReleaseWithoutAnEnsureEndsTheProcess) {
  EXPECT_DEATH(pyhold_thread_release(), "without an ensure");
}

// Those of one interpreter only count, as PyGILState does.
TEST_F(EnsureTest, NestedGuardsAreLeftInAnyOrder) {
  OnForeignThread([&] {
    auto first = std::make_unique<ThreadStateGuard>(view());
    auto second = std::make_unique<ThreadStateGuard>(view());
    first.reset();  // detaches, as PyGILState_Release() does
    {
      ThreadStateGuard third(view());
      CallPython();
    }
    second.reset();
    ThreadStateGuard guard(view());
    CallPython();
  });
}

TEST_F(EnsureDeathTest, LeavingAGuardThatBringsBackTheWrongStateIsFatal) {
  EXPECT_DEATH(
      {
        OnForeignThread([&] {
          auto first = std::make_unique<ThreadStateGuard>(view());
          ThreadStateDetachGuard detached;
          first.reset();
        });
      },
      "ends while not its");
}

}  // namespace
