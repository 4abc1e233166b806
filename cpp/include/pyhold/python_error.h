#ifndef PYHOLD_PYTHON_ERROR_H_
#define PYHOLD_PYTHON_ERROR_H_

#include <Python.h>

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "pyhold/core.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/layer_state.h"
#include "pyhold/object_ref.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// The canonical codes, with the numbers that absl::StatusCode and gRPC give
// them.
enum class ErrorCode {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
};

// A Python exception, taken off its thread: type, text, a code, and the live
// exception itself, with its traceback. May be copied and destroyed on any
// thread at any time. (A traceback keeps the frames it names alive, with their
// variables.)
class PythonError final {
 public:
  // Takes the pending exception of the thread, which has none then. If there
  // was none: code() is kOk. Runs Python code: the exception's __str__.
  // Attached: required, to the view's interpreter.
  static PythonError Fetch(const InterpreterView& view) {
#if PY_VERSION_HEX >= 0x030C0000
    PyObject* exception = PyErr_GetRaisedException();
#else
    PyObject *type, *exception, *traceback;
    PyErr_Fetch(&type, &exception, &traceback);
    if (type != nullptr)
      PyErr_NormalizeException(&type, &exception, &traceback);
    if (traceback != nullptr) PyException_SetTraceback(exception, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
#endif
    PythonError error;
    if (exception == nullptr) return error;
    error.code_ = CodeOf(exception);
    error.message_ = Describe(exception);
    error.exception_ = ObjectRef::Steal(view, exception);
    return error;
  }

  PythonError() = default;

  ErrorCode code() const noexcept { return code_; }

  // "ValueError: text", as the last line of a traceback has it.
  const std::string& message() const noexcept { return message_; }

  // Empty if there was no memory for it.
  const ObjectRef& exception() const noexcept { return exception_; }

  // Raises it again: it is the thread's pending exception then, instead of any
  // other. Attached: required. EDETACHED; EMISUSE on another interpreter than
  // its own; what exception() has, if that is empty.
  pyhold_status Restore() const {
    if (!exception_) return exception_.status();
    if (!exception_.view().is_attached()) {
      pyhold_status status = InterpreterView::Current().status();
      return status == PYHOLD_EDETACHED ? status : PYHOLD_EMISUSE;
    }
    PyObject* exception = exception_.NewRef();
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exception);
#else
    PyErr_Restore(Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(exception))),
                  exception, PyException_GetTraceback(exception));
#endif
    return PYHOLD_OK;
  }

  // From now on exceptions of `type`, and of its subclasses, have `code`. The
  // newest word on a type comes first; what nobody registered is as below.
  // Attached: required, to the view's interpreter, for which alone it is.
  static void RegisterCode(const InterpreterView& view, PyObject* type,
                           ErrorCode code) {
    Registered& registered = TheRegistered();
    std::lock_guard lock(registered.mutex);
    registered.codes.emplace_back(ObjectRef::Borrow(view, type), code);
  }

  // The code of an exception instance, from the first type in the table that it
  // is an instance of. Attached: required.
  static ErrorCode CodeOf(PyObject* exception) {
    {
      // Nothing in here lets go of the GIL, so nobody waits for both.
      Registered& registered = TheRegistered();
      std::lock_guard lock(registered.mutex);
      for (auto it = registered.codes.rbegin(); it != registered.codes.rend();
           ++it) {
        const ObjectRef& type = it->first;
        if (type && type.view().is_attached() &&
            PyErr_GivenExceptionMatches(exception, type.get()))
          return it->second;
      }
    }
    const struct {
      PyObject* type;
      ErrorCode code;
    } table[] = {
        {PyExc_KeyboardInterrupt, ErrorCode::kCancelled},
        {PyExc_SystemExit, ErrorCode::kAborted},
        {PyExc_MemoryError, ErrorCode::kResourceExhausted},
        {PyExc_RecursionError, ErrorCode::kResourceExhausted},
        {PyExc_NotImplementedError, ErrorCode::kUnimplemented},
        {PyExc_TimeoutError, ErrorCode::kDeadlineExceeded},
        {PyExc_FileNotFoundError, ErrorCode::kNotFound},
        {PyExc_ProcessLookupError, ErrorCode::kNotFound},
        {PyExc_FileExistsError, ErrorCode::kAlreadyExists},
        {PyExc_PermissionError, ErrorCode::kPermissionDenied},
        {PyExc_ConnectionError, ErrorCode::kUnavailable},
        {PyExc_BlockingIOError, ErrorCode::kUnavailable},
        {PyExc_KeyError, ErrorCode::kNotFound},
        {PyExc_IndexError, ErrorCode::kOutOfRange},
        {PyExc_OverflowError, ErrorCode::kOutOfRange},
        {PyExc_EOFError, ErrorCode::kOutOfRange},
        {PyExc_StopIteration, ErrorCode::kOutOfRange},
        {PyExc_ModuleNotFoundError, ErrorCode::kNotFound},
        {PyExc_ImportError, ErrorCode::kFailedPrecondition},
        {PyExc_TypeError, ErrorCode::kInvalidArgument},
        {PyExc_ValueError, ErrorCode::kInvalidArgument},
        {PyExc_AttributeError, ErrorCode::kInvalidArgument},
        {PyExc_ArithmeticError, ErrorCode::kInvalidArgument},
        {PyExc_AssertionError, ErrorCode::kInternal},
        {PyExc_SystemError, ErrorCode::kInternal},
    };
    for (const auto& [type, code] : table)
      if (PyErr_GivenExceptionMatches(exception, type)) return code;
    return ErrorCode::kUnknown;
  }

 private:
  struct Registered {
    static constexpr char kName[] = "Registered, " PYHOLD_STANDARD_LIBRARY_;
    std::mutex mutex;
    std::vector<std::pair<ObjectRef, ErrorCode>> codes;
  };
  static Registered& TheRegistered() {
    return internal::LayerState<Registered>();
  }

  // What an attribute, or str(), says; `otherwise` if that fails.
  static std::string Text(PyObject* owned, const char* otherwise) {
    const char* utf8 = owned != nullptr && PyUnicode_Check(owned)
                           ? PyUnicode_AsUTF8(owned)
                           : nullptr;
    std::string text = utf8 != nullptr ? utf8 : otherwise;
    Py_XDECREF(owned);
    PyErr_Clear();
    return text;
  }

  static std::string Describe(PyObject* exception) {
    auto* type = reinterpret_cast<PyObject*>(Py_TYPE(exception));
    std::string module =
        Text(PyObject_GetAttrString(type, "__module__"), "builtins");
    std::string name = Text(PyObject_GetAttrString(type, "__qualname__"),
                            Py_TYPE(exception)->tp_name);
    if (module != "builtins" && module != "__main__")
      name = module + "." + name;
    std::string text = Text(PyObject_Str(exception), "<its str() failed>");
    return text.empty() ? name : name + ": " + text;
  }

  ErrorCode code_ = ErrorCode::kOk;
  std::string message_;
  ObjectRef exception_;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_PYTHON_ERROR_H_
