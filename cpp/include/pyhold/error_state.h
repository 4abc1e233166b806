#ifndef PYHOLD_ERROR_STATE_H_
#define PYHOLD_ERROR_STATE_H_

#include <Python.h>

#include "pyhold/linkage.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Sets the thread's pending Python exception aside for a scope, and puts it back
// at its end, exactly as it was: type, value and traceback, or none. An
// exception that is pending then is discarded, so handle it before.
//
// Attached: required, to the same thread state at both ends.
//
//   pyhold::ErrorState aside;
//   if (PyObject_SetAttrString(object, "x", value) < 0) PyErr_Clear();
class ErrorState final {
 public:
  ErrorState() noexcept {
#if PY_VERSION_HEX >= 0x030C0000
    exception_ = PyErr_GetRaisedException();
#else
    PyErr_Fetch(&type_, &value_, &traceback_);
#endif
  }

  ErrorState(const ErrorState&) = delete;
  ErrorState& operator=(const ErrorState&) = delete;

  ~ErrorState() {
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exception_);
#else
    PyErr_Restore(type_, value_, traceback_);
#endif
  }

 private:
#if PY_VERSION_HEX >= 0x030C0000
  PyObject* exception_;
#else
  PyObject *type_, *value_, *traceback_;
#endif
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_ERROR_STATE_H_
