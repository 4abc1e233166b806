#ifndef PYHOLD_PY_CALLBACK_H_
#define PYHOLD_PY_CALLBACK_H_

#include <Python.h>

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "pyhold/core.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/object_ref.h"
#include "pyhold/safe_call.h"

namespace pyhold {

// A Python callable as a C++ function: PyCallback<R(Args...)> may be copied,
// called and destroyed on any thread at any time, also while its interpreter
// ends, and afterwards. R is a status type S or its Result<T>. A call gives,
// and S is as in SafeCallIntoPython():
//
//   the interpreter    the callable    the result
//   is gone, or ends   is not called   S::FromRefusal()
//   lives              raises          S::FromPythonError()
//   lives              returns         what `convert` makes of it, or S::Ok()
//
// Where S throws its errors, it is named, and R is free: PyCallback<int(), S>.
//
// A callback holds a reference to its callable, not its interpreter. If the last
// copy ends on a detached thread, pyhold's service thread gives that reference back.
// C++ exceptions of `invoke` and `convert` pass through; they reach a caller that is
// not attached, so they must own no Python objects.
//
// A callback for the whole process belongs in a static pointer that is never
// deleted. A plain static object is destroyed when the process exits, while
// detached threads may still call it.
//
// Thread-safe:       calling, copying and destroying; one object called by many
//                    threads, too. It may be destroyed in a call of itself.
// Thread-compatible: the rest.
//
//   pyhold::PyCallback<absl::StatusOr<long>(std::string)> count(
//       view, callable,
//       [](PyObject* f, const std::string& s) {
//         return PyObject_CallFunction(f, "s", s.c_str());
//       },
//       [](PyObject* result) { return PyLong_AsLong(result); });
//   pool.Submit([count] { Report(count("words")); });
template <typename Signature, typename S = void>
class PyCallback;

template <typename R, typename... Args, typename S>
class [[nodiscard]] PyCallback<R(Args...), S> final {
 public:
  using Status =
      std::conditional_t<std::is_void_v<S>, typename StatusOf<R>::type, S>;
  static_assert(!std::is_void_v<Status>,
                "name a status type: PyCallback<int(), MyStatus>");

  // Calls the callable: a new reference, or NULL and a Python error is set.
  using Invoke = std::function<PyObject*(PyObject* callable, Args... args)>;
  // Makes an R of what the callable returned (borrowed). If it sets a Python
  // error, that is the result.
  using Convert = std::function<R(PyObject* result)>;

  // `callable` is borrowed. Both functions are called attached, by many threads
  // at a time, and destroyed on any thread: they own no Python objects, but
  // ObjectRefs. `file` and `line` say who it is that calls, where finalization
  // reports what it waits for.
  // Attached: required, to the view's interpreter. An empty view, or no memory:
  // empty; ask status().
  PyCallback(const InterpreterView& view, PyObject* callable, Invoke invoke,
             Convert convert, const char* file = __builtin_FILE(),
             int line = __builtin_LINE())
      : call_(std::make_shared<const Call>(
            Call{view, ObjectRef::Borrow(view, callable), std::move(invoke),
                 std::move(convert), file, line})) {}

  // The same for an R without a value: what the callable returns is dropped.
  template <typename F, typename = std::enable_if_t<
                            std::is_constructible_v<Invoke, F> &&
                            (std::is_same_v<R, Status> || std::is_void_v<R>)>>
  PyCallback(const InterpreterView& view, PyObject* callable, F invoke,
             const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : PyCallback(
            view, callable, Invoke(std::move(invoke)),
            [](PyObject*) -> R {
              if constexpr (!std::is_void_v<R>)
                return StatusTraits<Status>::Ok();
            },
            file, line) {}

  PyCallback() = default;

  explicit operator bool() const noexcept { return status() == PYHOLD_OK; }

  // Why it is empty, which is what its calls are refused with; EMISUSE if it
  // was never given a callable.
  pyhold_status status() const noexcept {
    return call_ != nullptr ? call_->callable.status() : PYHOLD_EMISUSE;
  }

  // What `convert` returns, where it set a Python error and has no R.
  static R FromPendingError(const InterpreterView& view) {
    return Failed(
        StatusTraits<Status>::FromPythonError(PythonError::Fetch(view)));
  }

  // Attached: not needed. Blocks: until the GIL is free, unless it nests.
  R operator()(Args... args) const {
    if (!*this) return Failed(StatusTraits<Status>::FromRefusal(status()));
    const std::shared_ptr<const Call> call = call_;  // outlives this object
    return static_cast<R>(SafeCallIntoPython<Status>(
        call->view,
        [&]() -> R {
          const std::unique_ptr<PyObject, Decref> result(
              call->invoke(call->callable.get(), std::forward<Args>(args)...));
          if (result == nullptr && PyErr_Occurred() == nullptr)
            PyErr_SetString(PyExc_SystemError,
                            "a PyCallback's invoke failed without an error");
          if (PyErr_Occurred() == nullptr) return call->convert(result.get());
          return FromPendingError(call->view);
        },
        call->file, call->line));
  }

 private:
  struct Call {
    InterpreterView view;
    ObjectRef callable;
    Invoke invoke;
    Convert convert;
    const char* file;
    int line;
  };

  struct Decref {
    void operator()(PyObject* object) const { Py_DECREF(object); }
  };

  static R Failed(Status&& status) {
    if constexpr (!std::is_void_v<R>)
      return internal::MakeResult<R>(std::move(status));
  }

  std::shared_ptr<const Call> call_;
};

}  // namespace pyhold

#endif  // PYHOLD_PY_CALLBACK_H_
