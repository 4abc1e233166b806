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
// thread at any time.
//
// A raise changes its exception: each frame on the way adds to the traceback,
// and handlers set a context or a cause, or add notes. So Fetch() remembers
// __traceback__, __context__, __cause__, __suppress_context__ and __notes__, and
// each Restore() puts them back before it raises the exception. Restore() leaves
// __context__ empty if it would lead back to the exception. Everything else, such
// as an attribute that a handler sets, stays as it is.
//
// A traceback keeps its frames alive, with their variables: the frames that
// Fetch() saw until the last copy is destroyed, those of the last raise until the
// next Restore(). To free the latter at once, set __traceback__ to None after
// handling the exception.
//
// Thread-safe:       const calls on one object; copying it; destroying copies.
// Thread-compatible: assigning to one object.
//
// Copies share the exception object. If two threads raise it at once, both get
// that one object: its traceback may mix the entries of both raises, or lack
// some, until the next Restore(). Free-threaded CPython 3.13 does not lock
// exceptions, and may crash then; 3.14 locks them.
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
    // First, because the calls below run Python code.
    error.fetched_ = ObjectRef::Steal(view, Remember(exception));
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

  // Raises the exception again, as Fetch() saw it: it is the thread's pending
  // exception then, instead of any other. Runs Python code: destructors of what
  // the last raise, or the replaced exception, kept alive. If there was no memory
  // to remember what Fetch() saw, the exception is raised as it is.
  // Attached: required. EDETACHED; EMISUSE on another interpreter than its own;
  // what exception() has, if that is empty. A failure leaves what is pending.
  pyhold_status Restore() const {
    if (!exception_) return exception_.status();
    if (!exception_.view().IsAttached()) {
      pyhold_status status = InterpreterView::Current().status();
      return status == PYHOLD_EDETACHED ? status : PYHOLD_EMISUSE;
    }
    // New references, because a destructor that runs below may destroy *this.
    PyObject* exception = exception_.NewRef();
    PyObject* fetched = fetched_.NewRef();
    PyErr_Clear();
    if (fetched != nullptr) PutBack(exception, fetched);
    Py_XDECREF(fetched);
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
        if (type && type.view().IsAttached() &&
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

  // What Restore() puts back, as a tuple with None for what is absent; NULL if
  // there is no memory.
  enum { kTraceback, kContext, kCause, kSuppressContext, kNotes };
  static PyObject* Remember(PyObject* exception) {
    const auto or_none = [](PyObject* owned) {
      return owned != nullptr ? owned : Py_NewRef(Py_None);
    };
    PyObject* fetched =
        Py_BuildValue("(NNNNN)", or_none(PyException_GetTraceback(exception)),
                      or_none(PyException_GetContext(exception)),
                      or_none(PyException_GetCause(exception)),
                      or_none(Get(exception, "__suppress_context__")),
                      or_none(CopyIfList(Get(exception, "__notes__"))));
    PyErr_Clear();
    return fetched;
  }

  static void PutBack(PyObject* exception, PyObject* fetched) {
    const auto item = [fetched](int i) {
      PyObject* value = PyTuple_GET_ITEM(fetched, i);
      return value != Py_None ? Py_NewRef(value) : nullptr;
    };
    // This frees the frames of the last raise. A destructor may raise the
    // exception meanwhile, so the traceback is put back last.
    PyException_SetTraceback(exception, Py_None);
    PyObject* context = item(kContext);
    if (context != nullptr && HasInContexts(context, exception))
      Py_CLEAR(context);
    PyException_SetContext(exception, context);
    PyException_SetCause(exception, item(kCause));  // suppresses the context
    Set(exception, "__suppress_context__", item(kSuppressContext));
    // A copy each time, because add_note() appends to the list.
    Set(exception, "__notes__", CopyIfList(item(kNotes)));
    PyException_SetTraceback(exception, PyTuple_GET_ITEM(fetched, kTraceback));
  }

  // The attribute, or NULL. Does not call the class's own __getattribute__.
  static PyObject* Get(PyObject* exception, const char* name) {
    PyObject* key = PyUnicode_InternFromString(name);
    PyObject* value =
        key != nullptr ? PyObject_GenericGetAttr(exception, key) : nullptr;
    Py_XDECREF(key);
    PyErr_Clear();
    return value;
  }

  // Takes over `value`; NULL deletes the attribute. Does not call the class's
  // own __setattr__.
  static void Set(PyObject* exception, const char* name, PyObject* value) {
    PyObject* key = PyUnicode_InternFromString(name);
    if (key != nullptr) PyObject_GenericSetAttr(exception, key, value);
    Py_XDECREF(key);
    Py_XDECREF(value);
    PyErr_Clear();
  }

  // Takes over `value`.
  static PyObject* CopyIfList(PyObject* value) {
    if (value == nullptr || !PyList_Check(value)) return value;
    PyObject* copy = PyList_GetSlice(value, 0, PyList_GET_SIZE(value));
    Py_DECREF(value);
    PyErr_Clear();
    return copy;
  }

  // Whether the chain of contexts that begins with `first` leads to `exception`,
  // as it does after somebody raised `first` while handling `exception`. With
  // `first` as its context again, the chain would be a ring, and
  // contextlib.ExitStack follows a chain to its end.
  static bool HasInContexts(PyObject* first, PyObject* exception) {
    PyObject* at = Py_NewRef(first);
    // Brent's algorithm: ends even if the chain has a ring already.
    const PyObject* mark = nullptr;
    for (unsigned long steps = 1, next_mark = 1;
         at != nullptr && at != exception && at != mark; ++steps) {
      if (steps == next_mark) {
        mark = at;
        next_mark *= 2;
      }
      Py_SETREF(at, PyException_GetContext(at));
    }
    Py_XDECREF(at);
    return at == exception;
  }

  ErrorCode code_ = ErrorCode::kOk;
  std::string message_;
  ObjectRef exception_;
  ObjectRef fetched_;  // see Remember()
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_PYTHON_ERROR_H_
