// Must compile without a warning: see ../thread_safety_test.cc.
#include <Python.h>
//
#include "examples/status_types.h"
#include "pyhold/object_ref.h"
#include "pyhold/py_callback.h"
#include "pyhold/pyhold.h"
#include "pyhold/safe_call.h"

void CallsPython() PYHOLD_REQUIRES_ATTACHED;
void Blocks() PYHOLD_REQUIRES_DETACHED;

void Outermost(const pyhold::InterpreterView& view) {
  pyhold::ThreadStateGuard guard(view);
  if (!guard) return;
  CallsPython();
  {
    pyhold::ThreadStateGuard nested(view);
    CallsPython();
  }
  CallsPython();
  {
    pyhold::ThreadStateDetachGuard detached;
    if (detached) Blocks();
  }
  CallsPython();
}

void PassesItOn() PYHOLD_REQUIRES_ATTACHED;
void PassesItOn() {
  CallsPython();
  pyhold::ThreadStateDetachGuard detached;
  Blocks();
}

void Vouches() {
  PYHOLD_ASSUME_ATTACHED();
  CallsPython();
}

// A function without an annotation may let go, as a PyCFunction does.
void LetsGo() {
  {
    pyhold::ThreadStateDetachGuard detached;
    Blocks();
  }
  CallsPython();
  {
    pyhold::ThreadStateDetachGuard detached;
    Blocks();
  }
}

void LetsGoAndComesBack(const pyhold::InterpreterView& view) {
  pyhold::ThreadStateDetachGuard detached;
  Blocks();
  pyhold::ThreadStateGuard guard(view);
  CallsPython();
}

void LetsGoTwice(const pyhold::InterpreterView& view) PYHOLD_REQUIRES_ATTACHED;
void LetsGoTwice(const pyhold::InterpreterView& view) {
  pyhold::ThreadStateDetachGuard detached;
  {
    pyhold::ThreadStateGuard guard(view);
    CallsPython();
    pyhold::ThreadStateDetachGuard again;
    Blocks();
  }
  Blocks();
}

void EarlyReturn(bool early) {
  pyhold::ThreadStateDetachGuard detached;
  if (early) return;
  Blocks();
}

// A function that is called attached says so, a lambda too.
Expected<long> CallsSafely(const pyhold::InterpreterView& view) {
  return pyhold::SafeCallIntoPython<Expected<void>>(
      view, []() PYHOLD_REQUIRES_ATTACHED -> long {
        CallsPython();
        return 1;
      });
}

Expected<void> CallsSafelyForNothing(const pyhold::InterpreterView& view) {
  return pyhold::SafeCallIntoPython<Expected<void>>(
      view, []() PYHOLD_REQUIRES_ATTACHED { CallsPython(); });
}

pyhold_status CallsWithObject(const pyhold::ObjectRef& object) {
  return object.WithObject([](PyObject*)
                               PYHOLD_REQUIRES_ATTACHED { CallsPython(); });
}

pyhold_status CallsLater(const pyhold::InterpreterView& view) {
  return pyhold::Defer(view, []() PYHOLD_REQUIRES_ATTACHED { CallsPython(); });
}

pyhold::PyCallback<Expected<void>()> CallsBack(
    const pyhold::InterpreterView& view, PyObject* callable) {
  return {view, callable, [](PyObject* f) PYHOLD_REQUIRES_ATTACHED {
            CallsPython();
            return PyObject_CallNoArgs(f);
          }};
}
