#ifndef PYHOLD_SAFE_CALL_H_
#define PYHOLD_SAFE_CALL_H_

#include <Python.h>

#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>

#include "pyhold/core.h"
#include "pyhold/error_state.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/python_error.h"
#include "pyhold/thread_state_guard.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// How SafeCallIntoPython() speaks to a status type S. Specialized for
// absl::Status in absl_status.h, for arrow::Status in arrow_status.h; for your
// own:
//
//   template <>
//   struct pyhold::StatusTraits<MyStatus> {
//     template <typename T>
//     using Result = MyResult<T>;            // S, or a value; made from either
//     static MyStatus Ok();
//     static MyStatus FromRefusal(pyhold_status status);  // was not attached
//     static MyStatus FromPythonError(PythonError error); // attached
//     // What FromPythonError() put there, or NULL; valid as long as `status`.
//     static const PythonError* Find(const MyStatus& status);
//   };
//   template <> struct pyhold::StatusOf<MyStatus> { using type = MyStatus; };
//   template <typename T>
//   struct pyhold::StatusOf<MyResult<T>> { using type = MyStatus; };
//
// Where errors are thrown, the two From functions throw, and Result<T> is T.
template <typename S>
struct StatusTraits {
  static_assert(sizeof(S) == 0,
                "pyhold does not know this status type: include "
                "pyhold/absl_status.h or pyhold/arrow_status.h, or specialize "
                "pyhold::StatusTraits");
};

// The status type that R is, or is a result of; void for a plain value.
template <typename R>
struct StatusOf {
  using type = void;
};

// What a refused call says: "cannot call Python: PYHOLD_EFINALIZING (...)".
inline std::string DescribeRefusal(pyhold_status status) {
  return std::string("cannot call Python: ") + pyhold_status_name(status) +
         " (" + pyhold_status_message(status) + ")";
}

namespace internal {

template <typename S, typename R>
struct SafeCallResult {
  using type = typename StatusTraits<S>::template Result<R>;
};
template <typename S>
struct SafeCallResult<S, void> {
  using type = S;
};

template <typename Result, typename S>
Result MakeResult(S&& status) {
  if constexpr (std::is_constructible_v<Result, S&&>) {
    return Result(std::forward<S>(status));
  } else {
    std::abort();  // such traits throw: nobody comes here
  }
}

}  // namespace internal

// Calls fn() attached to the view's interpreter, and reports every way in which
// that can fail in one status:
//
//   fn returns          the result is       if it was refused, or Python raised
//   void                S                   S
//   a value T           Result<T> of S      the same, with the error
//   S or Result<T>      the same            the same, with the error
//
// S is named as a template argument, or taken from what fn returns. An exception
// that is pending after fn makes the result, whatever fn returned. The caller's
// own pending exception is set aside, and put back on every way out. C++
// exceptions of fn pass through; an exception of Python's that is pending then
// is discarded.
//
// Attached: not needed. Blocks: until the GIL is free, unless it nests.
//
//   absl::StatusOr<std::string> name = pyhold::SafeCallIntoPython<absl::Status>(
//       view, [&]() -> std::string { ...PyObject_Str(object)... });
//   if (!name.ok()) return name.status();
//
// To clang's thread-safety analysis fn is attached only if it says so: write
// `[&]() PYHOLD_REQUIRES_ATTACHED {...}` where fn calls annotated functions.
template <typename S = void, typename F>
auto SafeCallIntoPython(const InterpreterView& view, F&& fn,
                        const char* file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
  using R = std::invoke_result_t<F>;
  using Own = typename StatusOf<std::decay_t<R>>::type;
  using Status = std::conditional_t<std::is_void_v<S>, Own, S>;
  static_assert(!std::is_void_v<Status>,
                "name a status type: SafeCallIntoPython<absl::Status>(...)");
  static_assert(std::is_void_v<Own> || std::is_same_v<Own, Status>,
                "fn returns another status type than was asked for");
  using Traits = StatusTraits<Status>;
  using Result =
      typename std::conditional_t<std::is_void_v<Own>,
                                  internal::SafeCallResult<Status, R>,
                                  std::enable_if<true, R>>::type;

  ThreadStateGuard guard(view, file, line);
  if (!guard)
    return internal::MakeResult<Result>(Traits::FromRefusal(guard.status()));
  ErrorState aside;
  if constexpr (std::is_void_v<R>) {
    std::forward<F>(fn)();
    if (PyErr_Occurred() != nullptr)
      return Traits::FromPythonError(PythonError::Fetch(view));
    return Traits::Ok();
  } else {
    Result result(std::forward<F>(fn)());
    if (PyErr_Occurred() != nullptr)
      return internal::MakeResult<Result>(
          Traits::FromPythonError(PythonError::Fetch(view)));
    return result;
  }
}

// Raises the exception that a status carries again: see PythonError::Restore().
// EMISUSE, if it carries none. Attached: required.
template <typename S>
pyhold_status RestorePyError(const S& status) {
  const PythonError* error = StatusTraits<S>::Find(status);
  return error != nullptr ? error->Restore() : PYHOLD_EMISUSE;
}

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_SAFE_CALL_H_
