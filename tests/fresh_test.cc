// Each outermost call on a native thread starts fresh and ends clean, as with
// PyGILState_Ensure, though the thread keeps its state. On real interpreters.
#include "tests/support/python.h"

#include <unistd.h>

#include <atomic>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterView;
using pyhold::PersistentThreadState;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;

void OnNewThread(const std::function<void()>& fn) {
  ThreadStateDetachGuard detached;
  REQUIRE(detached);
  std::thread(fn).join();
}

// Make `fn` callable from Python, under a name in __main__. It may return with
// an exception set.
void Define(const char* name, std::function<void()> fn) {
  static PyMethodDef method = {"callback",
                               [](PyObject* self, PyObject*) -> PyObject* {
                                 (*static_cast<std::function<void()>*>(
                                     PyCapsule_GetPointer(self, nullptr)))();
                                 return PyErr_Occurred() ? nullptr
                                                         : Py_NewRef(Py_None);
                               },
                               METH_NOARGS, nullptr};
  PyObject* self =
      PyCapsule_New(new std::function<void()>(std::move(fn)), nullptr, nullptr);
  PyObject* function = PyCFunction_New(&method, self);
  PyObject* main = PyImport_AddModule("__main__");
  REQUIRE(PyObject_SetAttrString(main, name, function) == 0);
  Py_DECREF(function);
  Py_DECREF(self);
}

bool IsTrue(const char* expression) { return Eval(expression) != 0; }

// --- What calls leave ---

void DefineValues() {
  Exec(R"(
import asyncio, contextvars, decimal, sys, threading
local = threading.local()
var = contextvars.ContextVar('var')
other = contextvars.ContextVar('other')
ended = []  # on which threads values died
class Value:
    def __del__(self): ended.append(threading.get_ident())
async def agen():
    yield 1
async def coro(): pass
def origin():
    c = coro()
    c.close()
    return c.cr_origin
)");
}

// Runs Python code that does nothing.
bool IsInterrupted() {
  for (int i = 0; i < 100; ++i) {
    PyObject* main = PyModule_GetDict(PyImport_AddModule("__main__"));
    PyObject* value =
        PyRun_String("[0 for i in range(9)]", Py_eval_input, main, main);
    if (value == nullptr) {
      REQUIRE(PyErr_ExceptionMatches(PyExc_TimeoutError));
      PyErr_Clear();
      return true;
    }
    Py_DECREF(value);
  }
  return false;
}

struct Value {
  const char* name;
  void (*leave)();
  bool (*is_there)();
};

const Value kValues[] = {
    {"threading.local", [] { Exec("local.x = Value()"); },
     [] { return IsTrue("hasattr(local, 'x')"); }},
    {"a ContextVar", [] { Exec("var.set(Value())"); },
     [] { return IsTrue("var.get(None) is not None"); }},
    // Variables remember what they found, and look only for the next context.
    {"a ContextVar, in a context that another made",
     [] { Exec("var.set(Value())"); },
     [] { return IsTrue("other.set(1) and var.get(None) is not None"); }},
    {"decimal's context", [] { Exec("decimal.getcontext().prec = 5"); },
     [] { return IsTrue("decimal.getcontext().prec == 5"); }},
    {"a first hook of asynchronous generators",
     [] { Exec("sys.set_asyncgen_hooks(firstiter=lambda g: None)"); },
     [] { return IsTrue("sys.get_asyncgen_hooks()[0] is not None"); }},
    {"a last hook of asynchronous generators",
     [] { Exec("sys.set_asyncgen_hooks(finalizer=lambda g: None)"); },
     [] { return IsTrue("sys.get_asyncgen_hooks()[1] is not None"); }},
    {"the depth of coroutine origins",
     [] { Exec("sys.set_coroutine_origin_tracking_depth(3)"); },
     [] { return IsTrue("origin() is not None"); }},
    {"a handled exception",
     [] {
       PyObject* e = PyObject_CallNoArgs(PyExc_KeyError);
       PyErr_SetHandledException(e);
       Py_DECREF(e);
     },
     [] { return IsTrue("sys.exc_info()[0] is not None"); }},
    {"an entry of PyThreadState_GetDict()",
     [] { PyDict_SetItemString(PyThreadState_GetDict(), "mine", Py_None); },
     [] {
       PyObject* dict = PyThreadState_GetDict();
       return PyDict_GetItemString(dict, "mine") != nullptr;
     }},
    {"an asynchronous exception",
     [] {
       REQUIRE(PyThreadState_SetAsyncExc(PyThread_get_thread_ident(),
                                         PyExc_TimeoutError) == 1);
     },
     IsInterrupted},
    {"asyncio's running loop",
     [] {
       Exec(
           "loop = asyncio.new_event_loop()\n"
           "asyncio._set_running_loop(loop)\n");
       // Where asyncio has its entry in the dict, it must not find it later.
       (void)PyDict_Copy(PyThreadState_GetDict());
     },
     [] { return IsTrue("asyncio._get_running_loop() is not None"); }},
};

bool IsAsyncioLoop(const Value& value) {
  return &value == std::end(kValues) - 1;
}

// 3.13.15 and 3.14 keep asyncio's running loop where pyhold cannot reach it.
bool CanBeCleared(const Value& value) {
  return !IsAsyncioLoop(value) || PY_VERSION_HEX < 0x030D0000;
}

// --- Ways to call ---

enum Way {
  kGuard,
  kHold,
  kPair,
  kPerCall,
  kNested,
  kDetaching,
  kGILState,         // on a thread that pyhold does not know
  kGILStateOfAKept,  // on one where pyhold keeps a state
  kWays,
};

void Call(const InterpreterView& view, Way way,
          const std::function<void()>& fn) {
  switch (way) {
    case kGuard: {
      ThreadStateGuard guard(view);
      fn();
      break;
    }
    case kHold: {
      ThreadStateGuard guard(view.Hold());
      fn();
      break;
    }
    case kPair:
      REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
      fn();
      pyhold_thread_release();
      break;
    case kPerCall: {
      ThreadStateGuard guard(view.With(PYHOLD_PER_CALL));
      fn();
      break;
    }
    case kNested: {
      ThreadStateGuard outer(view);
      ThreadStateGuard guard(view);
      fn();
      break;
    }
    case kDetaching: {
      ThreadStateGuard outer(view);
      ThreadStateDetachGuard detached;
      ThreadStateGuard guard(view);
      fn();
      break;
    }
    default: {
      PyGILState_STATE old = PyGILState_Ensure();
      fn();
      PyGILState_Release(old);
    }
  }
}

SCENARIO(NothingIsLeft) {
  const Way way = static_cast<Way>(argument);
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  for (const Value& value : kValues) {
    if (!CanBeCleared(value) && way != kPerCall && way != kGILState) continue;
    printf("%s\n", value.name);
    OnNewThread([&] {
      if (way == kGILStateOfAKept)
        Call(view, kGuard, [&] { REQUIRE(!value.is_there()); });
      // Caches are filled first.
      Call(view, way, [&] { REQUIRE(!value.is_there()); });
      Call(view, way, [&] {
        value.leave();
        REQUIRE(value.is_there());
      });
      Call(view, way == kGILStateOfAKept ? kGuard : way,
           [&] { REQUIRE(!value.is_there()); });
      for (int i = 0; i < 3; ++i) {
        Call(view, way, value.leave);
        Call(view, way == kGILStateOfAKept ? kGuard : way,
             [&] { REQUIRE(!value.is_there()); });
      }
      Call(view, way, [&] {
        REQUIRE(IsTrue("set(ended) <= {threading.get_ident()}"));
        Exec("ended.clear()");
      });
    });
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
class FreshWaysTest : public testing::TestWithParam<int> {};
const char* const kWayNames[kWays] = {"Guard",    "Hold",           "Pair",
                                      "PerCall",  "Nested",         "Detaching",
                                      "GILState", "GILStateOfAKept"};
INSTANTIATE_TEST_SUITE_P(, FreshWaysTest, testing::Range(0, int{kWays}),
                         [](const auto& info) {
                           return kWayNames[info.param];
                         });
TEST_P(FreshWaysTest, NothingThatACallLeftIsThereInTheNext) {
  EXPECT_EQ(RunChild("NothingIsLeft", GetParam()), Clean());
}

// --- What an enclosing scope sees ---

// `enclosing` attaches, and calls its argument twice: to leave something, and to
// look for it.
using Enclosing = void (*)(const InterpreterView&,
                           const std::function<void()>& leave,
                           const std::function<void()>& look);

const Enclosing kEnclosings[] = {
    // A guard.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      ThreadStateGuard outer(view);
      Call(view, kGuard, leave);
      look();
    },
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      ThreadStateGuard outer(view);
      {
        ThreadStateDetachGuard detached;
        Call(view, kGuard, leave);
      }
      look();
    },
    // The C pair.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
      Call(view, kPair, leave);
      look();
      pyhold_thread_release();
    },
    // PyGILState_Ensure.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      PyGILState_STATE old = PyGILState_Ensure();
      Call(view, kGuard, leave);
      look();
      PyGILState_Release(old);
    },
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      PyGILState_STATE old = PyGILState_Ensure();
      PyThreadState* saved = PyEval_SaveThread();
      Call(view, kPair, leave);
      PyEval_RestoreThread(saved);
      look();
      PyGILState_Release(old);
    },
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      PyGILState_STATE old = PyGILState_Ensure();
      {
        ThreadStateDetachGuard detached;
        Call(view, kGuard, leave);
      }
      look();
      PyGILState_Release(old);
    },
    // PyGILState_Ensure in a guard, detached between the two.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      ThreadStateGuard outer(view);
      Py_BEGIN_ALLOW_THREADS;
      PyGILState_STATE old = PyGILState_Ensure();
      Py_BEGIN_ALLOW_THREADS;
      Call(view, kGuard, leave);
      Py_END_ALLOW_THREADS;
      look();
      PyGILState_Release(old);
      Py_END_ALLOW_THREADS;
    },
    // PyGILState_Ensure goes on where the guard around it is left.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      std::optional<ThreadStateGuard> outer(std::in_place, view);
      PyGILState_STATE old = PyGILState_Ensure();
      PyThreadState* state = PyEval_SaveThread();
      PyEval_RestoreThread(state);
      leave();
      outer.reset();
      PyEval_RestoreThread(state);
      look();
      PyGILState_Release(old);  // attached before: so it stays
      PyEval_SaveThread();
    },
    // A persistent state.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      PersistentThreadState lasting(view);
      Call(view, kGuard, leave);
      Call(view, kHold, look);
    },
    // A Python frame that runs on a state which somebody attached uncounted.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      PyThreadState* state;
      {
        ThreadStateGuard guard(view);
        state = Attached();
      }
      PyEval_RestoreThread(state);
      // A global of this thread's; look() clears it.
      Define("leave_it", [&] {
        PyThreadState* saved = PyEval_SaveThread();
        Call(view, kGuard, leave);
        PyEval_RestoreThread(saved);
        look();
      });
      Exec("leave_it()");
      PyEval_SaveThread();
    },
    // PyGILState_Ensure goes on in a state that the guard around it would delete.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      std::optional<ThreadStateGuard> outer(std::in_place,
                                            view.With(PYHOLD_PER_CALL));
      PyGILState_STATE old = PyGILState_Ensure();
      PyThreadState* state = Attached();
      leave();
      outer.reset();
      PyEval_RestoreThread(state);
      look();
      PyGILState_Release(old);  // attached before: so it stays
      PyEval_SaveThread();
      Call(view, kGuard, [] {});  // this one may delete it
    },
#if PY_VERSION_HEX >= 0x030F0000
    // CPython's own ensure.
    [](const InterpreterView& view, const auto& leave, const auto& look) {
      PyInterpreterState* interp;
      {
        ThreadStateGuard guard(view);
        interp = Attached()->interp;
      }
      (void)interp;
      PyInterpreterView* own = PyInterpreterView_FromMain();
      REQUIRE(own != nullptr);
      PyThreadStateToken* token = PyThreadState_EnsureFromView(own);
      REQUIRE(token != nullptr);
      PyThreadState* saved = PyEval_SaveThread();
      Call(view, kGuard, leave);
      PyEval_RestoreThread(saved);
      look();
      PyThreadState_Release(token);
      PyInterpreterView_Close(own);
    },
#endif
};
constexpr int kEnclosingCount = sizeof kEnclosings / sizeof *kEnclosings;

SCENARIO(EnclosingSees) {
  const Enclosing enclosing = kEnclosings[argument];
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  Exec(
      "told = []\n"
      "sys.unraisablehook = lambda u: told.append(u.exc_value)\n");
  for (bool knows_it : {false, true}) {
    for (const Value& value : kValues) {
      printf("%s\n", value.name);
      OnNewThread([&] {
        if (knows_it) Call(view, kGuard, [] {});
        enclosing(view, value.leave, [&] { REQUIRE(value.is_there()); });
        if (!CanBeCleared(value)) return;
        Call(view, kGuard, [&] { REQUIRE(!value.is_there()); });
      });
    }
    OnNewThread([&] {
      if (knows_it) Call(view, kGuard, [] {});
      enclosing(
          view, [] { PyErr_SetString(PyExc_ValueError, "for the outer one"); },
          [] {
            REQUIRE(PyErr_ExceptionMatches(PyExc_ValueError));
            PyErr_Clear();
          });
      Call(view, kGuard, [] { REQUIRE(PyErr_Occurred() == nullptr); });
    });
  }
  REQUIRE(IsTrue("not told"));
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
class FreshEnclosingTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(, FreshEnclosingTest,
                         testing::Range(0, kEnclosingCount));
TEST_P(FreshEnclosingTest, AnEnclosingScopeSeesWhatAnInnerOneLeft) {
  EXPECT_EQ(RunChild("EnclosingSees", GetParam()), Clean());
}

// --- Persistent states ---

SCENARIO(PersistentKeepsAll) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  for (bool made_first : {true, false}) {
    for (const Value& value : kValues) {
      printf("%s\n", value.name);
      OnNewThread([&] {
        std::optional<PersistentThreadState> lasting;
        if (made_first)
          lasting.emplace(view);
        else
          Call(view, kGuard, [&] { lasting.emplace(view); });
        Call(view, kGuard, value.leave);
        PyGILState_Release(PyGILState_Ensure());
        Call(view, kPerCall, [&] { REQUIRE(value.is_there()); });
        Call(view, kGILState, value.leave);
        Call(view, kPair, [&] { REQUIRE(value.is_there()); });
        lasting.reset();
        if (!CanBeCleared(value) && !made_first) return;
        Call(view, kGuard, [&] { REQUIRE(!value.is_there()); });
      });
    }
  }
  OnNewThread([&] {  // errors, too
    PersistentThreadState lasting(view);
    Call(view, kPair, [] { PyErr_SetString(PyExc_KeyError, "lasts"); });
    Call(view, kGuard, [] {
      REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
      PyErr_Clear();
    });
  });
  REQUIRE(IsTrue("len(set(ended)) > 0"));
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, PersistentStateKeepsAllUntilItIsDeleted) {
  EXPECT_EQ(RunChild("PersistentKeepsAll"), Clean());
}

// --- Errors ---

SCENARIO(ErrorsOfThePair) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  Exec("sys.unraisablehook = lambda u: 1 / 0");
  auto set = [] { PyErr_SetString(PyExc_KeyError, "left"); };
  OnNewThread([&] {
    // Dropped, quietly.
    for (int i = 0; i < 3; ++i) {
      Call(view, kPair, set);
      Call(view, kPair, [] { REQUIRE(PyErr_Occurred() == nullptr); });
    }
    // Kept for one ensure, and no longer.
    for (Way way : {kPair, kGuard}) {
      REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
      Exec("local.x = Value()");
      set();
      pyhold_thread_release_keeping_error();
      Call(view, way, [] {
        REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
        PyErr_Clear();
        REQUIRE(IsTrue("not hasattr(local, 'x')"));  // values are not
      });
      REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
      set();
      pyhold_thread_release_keeping_error();
      Call(view, kPair, [] { REQUIRE(PyErr_Occurred() != nullptr); });
      Call(view, kPair, [] { REQUIRE(PyErr_Occurred() == nullptr); });
    }
    // Not one that PyGILState left on the kept state.
    Call(view, kGILState, set);
    Call(view, kPair, [] { REQUIRE(PyErr_Occurred() == nullptr); });
    // Nor one that stays when an asked for one was taken.
    REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
    set();
    pyhold_thread_release_keeping_error();
    Call(view, kGILState, [] { PyErr_Clear(); });
    Call(view, kPair, [] { REQUIRE(PyErr_Occurred() == nullptr); });
    Call(view, kGILState, set);
    Call(view, kPair, [] { REQUIRE(PyErr_Occurred() == nullptr); });
  });
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, ThePairDropsAnErrorOrKeepsItForOneEnsure) {
  EXPECT_EQ(RunChild("ErrorsOfThePair"), Clean());
}

// The report of an exception runs Python code, which may leave another.
SCENARIO(ReportRaises) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  Exec(R"(
told = []
def hook(u):
    told.append(type(u.exc_value))
    local.x = Value()
    var.set(1)
sys.unraisablehook = hook
)");
  OnNewThread([&] {
    for (int i = 0; i < 3; ++i) {
      Call(view, kGuard, [] {
        REQUIRE(PyErr_Occurred() == nullptr);
        REQUIRE(IsTrue("not hasattr(local, 'x') and var.get(0) == 0"));
        PyErr_SetString(PyExc_KeyError, "left");
      });
    }
  });
  REQUIRE(IsTrue("told == [KeyError] * 3 and len(ended) == 3"));
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, WhatTheReportOfAnExceptionLeavesIsCleared) {
  EXPECT_EQ(RunChild("ReportRaises"), Clean());
}

// --- Exceptions that other threads throw ---

SCENARIO(AsyncExceptions) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  std::promise<unsigned long> idle, idle_again;
  std::promise<void> thrown, in_use;
  std::thread worker([&] {
    Call(view, kGuard, [&] { REQUIRE(!IsInterrupted()); });
    idle.set_value(PyThread_get_thread_ident());
    thrown.get_future().wait();
    Call(view, kGuard, [&] { REQUIRE(!IsInterrupted()); });
    Call(view, kGuard, [&] {
      in_use.set_value();
      while (!IsInterrupted()) {
      }
    });
    Call(view, kGuard, [&] { REQUIRE(!IsInterrupted()); });
    // While detached in a call: that call gets it.
    Call(view, kGuard, [&] {
      std::promise<void> thrown_now;
      unsigned long me = PyThread_get_thread_ident();
      ThreadStateDetachGuard detached;
      std::thread([&] {
        ThreadStateGuard guard(view);
        REQUIRE(PyThreadState_SetAsyncExc(me, PyExc_TimeoutError) == 1);
      }).join();
      ThreadStateGuard guard(view);
      REQUIRE(IsInterrupted());
    });
  });
  unsigned long ident;
  {
    ThreadStateDetachGuard detached;
    ident = idle.get_future().get();
  }
  // 0 or 1: it may be told that no such thread runs Python.
  PyThreadState_SetAsyncExc(ident, PyExc_TimeoutError);
  thrown.set_value();
  {
    ThreadStateDetachGuard detached;
    in_use.get_future().wait();
  }
  REQUIRE(PyThreadState_SetAsyncExc(ident, PyExc_TimeoutError) == 1);
  {
    ThreadStateDetachGuard detached;
    worker.join();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, AnAsynchronousExceptionHitsTheCallInProgressOrNone) {
  EXPECT_EQ(RunChild("AsyncExceptions"), Clean());
}

// --- Destructors ---

SCENARIO(DestructorsSetAgain) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  Exec(R"(
over = False
class Again:
    def __init__(self, left): self.left = left
    def __del__(self):
        ended.append(self.left)
        if self.left > 0 and not over:
            local.x = Again(self.left - 1)
            var.set(Again(0))
            sys.set_coroutine_origin_tracking_depth(2)
)");
  OnNewThread([&] {
    PyThreadState* state = nullptr;
    Call(view, kGuard, [&] {
      state = Attached();
      Exec("local.x = Again(3)");
    });
    Call(view, kGuard, [&] {
      REQUIRE(Attached() == state);
      REQUIRE(IsTrue("ended.count(3) == 1 and ended.count(0) == 4"));
      REQUIRE(IsTrue("not hasattr(local, 'x') and var.get(0) == 0"));
      REQUIRE(IsTrue("origin() is None"));
      Exec("ended.clear(); local.x = Again(100000000)");
    });
    // After some rounds the state is deleted instead, with what is in it.
    Call(view, kGuard, [&] {
      REQUIRE(IsTrue("0 < len(ended) < 100"));
      REQUIRE(IsTrue("not hasattr(local, 'x') and var.get(0) == 0"));
      REQUIRE(PyGILState_GetThisThreadState() == Attached());
    });
    Call(view, kGILState, [&] { Exec("local.x = Again(100000000)"); });
    Call(view, kGuard, [] {});
    Call(view, kGuard, [&] { REQUIRE(IsTrue("not hasattr(local, 'x')")); });
  });
  Exec("over = True");
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, DestructorsMaySetValuesAgainForSomeRounds) {
  EXPECT_EQ(RunChild("DestructorsSetAgain"), Clean());
}

SCENARIO(DestructorsCallPyhold) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  static std::atomic<int> calls;
  Define("nest", [&] {
    PyThreadState* state = Attached();
    for (Way way : {kGuard, kPair, kDetaching, kGILState}) {
      Call(view, way, [&] {
        REQUIRE(Attached() == state);
        Exec("local.y = 1");
      });
      // The outer use goes on.
      REQUIRE(IsTrue("local.__dict__.pop('y') == 1"));
    }
    {
      ThreadStateDetachGuard detached;
      REQUIRE(detached);
      Call(view, kGuard, [&] { REQUIRE(Attached() == state); });
    }
    PyThreadState* saved = PyEval_SaveThread();
    Call(view, kGILState, [&] { REQUIRE(Attached() == state); });
    PyEval_RestoreThread(saved);
    std::optional<PersistentThreadState> lasting(view);
    REQUIRE(*lasting);
    lasting.reset();
    ++calls;
  });
  Exec(
      "class Nests:\n"
      "    def __del__(self): nest()\n");
  for (Way way : {kGuard, kPair, kPerCall, kHold}) {
    OnNewThread([&] {
      for (int i = 0; i < 3; ++i) {
        int before = calls;
        Call(view, way, [] { Exec("local.x = Nests(); var.set(Nests())"); });
        REQUIRE(calls == before + 2);
        if (way == kPerCall) continue;
        PyObject* error = nullptr;
        Call(view, way, [&] {  // in the pending exception, too
          Exec("error = ValueError(Nests())");
          PyObject* main = PyImport_AddModule("__main__");
          error = PyObject_GetAttrString(main, "error");
          Exec("del error; sys.unraisablehook = lambda u: None");
          PyErr_SetObject(PyExc_ValueError, error);
          Py_DECREF(error);
        });
        REQUIRE(calls == before + 3);
      }
      // What PyGILState left dies when the next guard begins.
      int before = calls;
      Call(view, kGuard, [] {});
      Call(view, kGILState, [] { Exec("local.x = Nests()"); });
      REQUIRE(calls == before);
      Call(view, kGuard, [&] { REQUIRE(calls == before + 1); });
    });
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, DestructorsOfWhatIsClearedMayCallPyhold) {
  EXPECT_EQ(RunChild("DestructorsCallPyhold"), Clean());
}

// --- Asyncio, which caches its loop for each number of a thread state ---

SCENARIO(Asyncio) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  Exec(R"(
async def job(n):
    await asyncio.sleep(0)
    return n
def has_loop():
    try: asyncio.get_running_loop()
    except RuntimeError: return False
    return True
junk = []
)");
  for (bool mixed : {false, true}) {
    OnNewThread([&] {
      for (int i = 0; i < 20; ++i) {
        Way way = mixed && i % 3 == 0 ? kGILState : kGuard;
        Call(view, way, [] { REQUIRE(IsTrue("asyncio.run(job(7)) == 7")); });
        Call(view, kGuard, [] {
          // Takes the place of what was freed.
          Exec("junk[:] = [bytearray(n) for n in range(200)]");
          REQUIRE(IsTrue("not has_loop()"));
        });
        Call(view, way, [] { REQUIRE(IsTrue("not has_loop()")); });
      }
    });
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, AsyncioRunsAgainAndAgain) {
  EXPECT_EQ(RunChild("Asyncio"), Clean());
}

// --- What stays ---

SCENARIO(TraceFunctions) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  Exec(
      "hits = []\n"
      "def f(): pass\n"
      "def hook(frame, event, arg):\n"
      "    if event == 'call' and frame.f_code.co_name == 'f': "
      "hits.append(1)\n");
  for (const char* set : {"sys.setprofile(hook)", "sys.settrace(hook)"}) {
    OnNewThread([&] {
      Call(view, kGuard, [&] { Exec(set); });
      for (int i = 0; i < 5; ++i)
        Call(view, kGuard, [] { Exec("f(); local.x = Value()"); });
      Call(view, kPerCall, [] { Exec("f()"); });  // the state that there is
    });
    REQUIRE(IsTrue("len(hits) == 6"));
    Exec("hits.clear()");
    OnNewThread([&] {
      Call(view, kPerCall, [&] { Exec(set); });
      Call(view, kPerCall, [] { Exec("f()"); });
    });
    REQUIRE(IsTrue("len(hits) == 0"));
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, TraceAndProfileFunctionsStay) {
  EXPECT_EQ(RunChild("TraceFunctions"), Clean());
}

SCENARIO(SameState) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  OnNewThread([&] {
    PyThreadState* state = nullptr;
    uint64_t id = 0;
    for (const Value& value : kValues) {
      if (IsAsyncioLoop(value)) continue;
      for (int i = 0; i < 3; ++i) {
        Call(view, kGuard, [&] {
          if (state == nullptr) {
            state = Attached();
            id = PyThreadState_GetID(state);
          }
          REQUIRE(Attached() == state && PyThreadState_GetID(state) == id);
          value.leave();
        });
      }
    }
  });
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, TheStateIsKeptThoughItIsCleared) {
  EXPECT_EQ(RunChild("SameState"), Clean());
}

// --- The first import of threading ---

SCENARIO(FirstImport) {
  const bool lives_on = argument % 2 != 0;
  const Way way = argument / 2 % 2 != 0 ? kPair : kGuard;
  const bool nested = argument / 4 != 0;
  StartPython();
  InterpreterView view = InterpreterView::Current();
  REQUIRE(IsTrue("'threading' not in __import__('sys').modules"));
  std::promise<void> called, end;
  std::thread worker([&] {
    Call(view, way, [] {});
    if (nested) {
      Call(view, kGILState,
           [&] { Call(view, way, [] { Exec("import threading"); }); });
    } else {
      Call(view, way, [] { Exec("import threading"); });
    }
    Call(view, way, [] { Exec("threading.current_thread()"); });
    called.set_value();
    if (lives_on) end.get_future().wait();
  });
  {
    ThreadStateDetachGuard detached;
    called.get_future().wait();
    if (!lives_on) worker.join();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  if (lives_on) {
    end.set_value();
    worker.join();
  }
  return 0;
}
TEST(FreshTest, AThreadThatImportsThreadingFirstDelaysNoEnd) {
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(RunChild("FirstImport", i, 60), Clean()) << i;
}

// --- Subinterpreters, and callbacks of others ---

SCENARIO(Subinterpreters) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  SubInterpreter sub(argument == 0 ? SubInterpreter::kShared
                                   : SubInterpreter::kOwn);
  InterpreterView sub_view = InterpreterView::Current();
  Exec("import threading\nlocal = threading.local()");
  PyThreadState* saved = PyEval_SaveThread();
  std::thread([&] {
    auto is_fresh = [] { REQUIRE(IsTrue("not hasattr(local, 'x')")); };
    auto leave = [] { Exec("local.x = 1"); };
    for (int i = 0; i < 3; ++i) {
      Call(sub_view, kGuard, [&] {
        is_fresh();
        leave();
        Call(view, kGuard, [&] {
          is_fresh();
          leave();
          Call(sub_view, kGuard, [&] { REQUIRE(IsTrue("local.x == 1")); });
          REQUIRE(IsTrue("local.x == 1"));
        });
        REQUIRE(IsTrue("local.x == 1"));
        Call(view, kGuard, is_fresh);
      });
      Call(view, kGuard, [&] {
        is_fresh();
        leave();
        PyErr_SetString(PyExc_ValueError, "main's own");
        Call(sub_view, kGuard, [&] {
          REQUIRE(PyErr_Occurred() == nullptr);
          is_fresh();
          leave();
          Call(view, kGuard,
               [] { REQUIRE(PyErr_ExceptionMatches(PyExc_ValueError)); });
        });
        REQUIRE(PyErr_ExceptionMatches(PyExc_ValueError));
        PyErr_Clear();
        REQUIRE(IsTrue("local.x == 1"));
      });
      {  // one that lasts in the subinterpreter only
        PersistentThreadState lasting(sub_view);
        Call(sub_view, kGuard, leave);
        Call(view, kGuard, leave);
        Call(sub_view, kGuard, [] { REQUIRE(IsTrue("local.x == 1")); });
        Call(view, kGuard, is_fresh);
      }
    }
  }).join();
  PyEval_RestoreThread(saved);
  sub.End();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, EachInterpretersCallsStartFresh) {
  EXPECT_EQ(RunChild("Subinterpreters", 0), Clean());
  if (SubInterpreter::kHasOwnGil) {
    EXPECT_EQ(RunChild("Subinterpreters", 1), Clean());
  }
}

SCENARIO(CtypesCallbacks) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineValues();
  Define("in_guard", [&] {
    ThreadStateDetachGuard detached;
    ThreadStateGuard guard(view);
    Exec("local.inner = 1");
    PyErr_SetString(PyExc_ValueError, "bad input");
  });
  Exec(R"(
import ctypes
got = []
@ctypes.CFUNCTYPE(None)
def callback():
    got.append(hasattr(local, 'x'))
    local.x = Value()
    var.set(1)
    try: in_guard()
    except ValueError as e: got.append((str(e), local.inner))
address = ctypes.cast(callback, ctypes.c_void_p).value
)");
  PyObject* main = PyImport_AddModule("__main__");
  PyObject* address = PyObject_GetAttrString(main, "address");
  auto callback = reinterpret_cast<void (*)()>(PyLong_AsVoidPtr(address));
  Py_DECREF(address);
  OnNewThread([&] {
    callback();
    for (int i = 0; i < 3; ++i) {
      Call(view, kGuard, [] {
        REQUIRE(IsTrue("not hasattr(local, 'x') and var.get(0) == 0"));
        REQUIRE(IsTrue("not hasattr(local, 'inner')"));
      });
      callback();
    }
    Call(view, kGuard, [&] {  // inside a call it sees what that has
      Exec("local.x = 5");
      PyThreadState* saved = PyEval_SaveThread();
      callback();
      PyEval_RestoreThread(saved);
      REQUIRE(IsTrue("got[-2] is True and var.get(0) == 1"));
    });
  });
  REQUIRE(
      IsTrue("got == [False, ('bad input', 1)] * 4 + "
             "[True, ('bad input', 1)]"));
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(FreshTest, CallbacksOfOthersMixWithGuards) {
  EXPECT_EQ(RunChild("CtypesCallbacks"), Clean());
}

}  // namespace
