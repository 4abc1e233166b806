// A part: -DPART=part_a or part_b.
#include <Python.h>
//
#include "part.h"
#include "pyhold/object_ref.h"
#include "pyhold/pyhold.h"
#include "pyhold/python_error.h"
#include "pyhold/safe_call.h"

// A status of the part's own: 0, or the code of an error. Both parts have one of this
// name: what they write for it is to stay in each.
struct Outcome {
  int code;
};

template <>
struct pyhold::StatusTraits<Outcome> {
  template <typename T>
  using Result = Outcome;
  static Outcome Ok() { return {0}; }
  static Outcome FromRefusal(pyhold_status status) { return {status}; }
  static Outcome FromPythonError(PythonError error) {
    return {static_cast<int>(error.code())};
  }
};

namespace {

extern Part part;
pyhold::InterpreterView* view;
pyhold::ObjectRef* list;

void Start(bool registers_error_code) {
  view = new pyhold::InterpreterView(pyhold::InterpreterView::Current());
  if (!*view) return;
  list = new pyhold::ObjectRef(pyhold::ObjectRef::Steal(*view, PyList_New(0)));
  if (registers_error_code) {
    pyhold::PythonError::RegisterCode(*view, PyExc_ValueError,
                                      pyhold::ErrorCode::kUnavailable);
    return;
  }
  PyObject* error = PyObject_CallNoArgs(PyExc_ValueError);
  part.sees_codes_of_the_other =
      pyhold::PythonError::CodeOf(error) == pyhold::ErrorCode::kUnavailable;
  Py_DECREF(error);
}

// Each step has numbers of its own for what can go wrong.
int Call(int (*inside)()) {
  if (!*view) return 100 - view->status();
  pyhold::ObjectRef copy = *list;  // destroyed when the thread is detached
  {
    pyhold::ThreadStateGuard guard(*view);
    if (!guard) return 200 - guard.status();
    if (PyList_Append(copy.get(), Py_None) != 0) return 1;
    pyhold::ThreadStateGuard nested(*view);
    if (!nested) return 300 - nested.status();
    if (inside != nullptr) {
      int wrong = inside();
      if (wrong != 0) return wrong;
    }
    pyhold::ThreadStateDetachGuard detached;
    if (!detached) return 400 - detached.status();
    if (inside != nullptr) {
      int wrong = inside();
      if (wrong != 0) return wrong;
    }
  }
  Outcome outcome = pyhold::SafeCallIntoPython<Outcome>(
      *view, [] { PyErr_SetNone(PyExc_KeyError); });
  if (outcome.code != static_cast<int>(pyhold::ErrorCode::kNotFound)) return 2;
  pyhold::PersistentThreadState lasting(*view);
  if (!lasting) return 500 - lasting.status();
  pyhold::ThreadStateGuard guard(*view);
  return guard ? 0 : 600 - guard.status();
}

Part part = {PYHOLD_ABI_NUMBER,
             reinterpret_cast<const void*>(&pyhold_frame_enter_view),
             &pyhold::attached,
             false,
             Start,
             Call};

}  // namespace

Part* PART() { return &part; }
