// For std::function parameters of nanobind functions: in place of
// <nanobind/stl/function.h>, whose functions may be copied, called and destroyed
// only while Python lives. These may be at any time, on any thread.
//
// A function that returns a status type (see pyhold::StatusTraits) returns its
// failures, too. Any other throws them: PythonRefused or PythonRaised.
#ifndef PYHOLD_EXAMPLES_NANOBIND_SAFE_FUNCTION_H_
#define PYHOLD_EXAMPLES_NANOBIND_SAFE_FUNCTION_H_

#include "examples/nanobind/library.h"
//
#include <exception>
#include <functional>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include "examples/result_value.h"
#include "examples/status_types.h"
#include "pyhold/py_callback.h"
#include "pyhold/pyhold.h"

namespace nanobind::detail {

template <typename Return, typename... Args>
struct type_caster<std::function<Return(Args...)>> {
  using Callback = pyhold::PyCallback<Return(Args...), StatusOrThrown<Return>>;
  using Result = ResultValue<Return>;
  using ResultCaster = make_caster<
      std::conditional_t<std::is_void_v<Result>, void_type, Result>>;
  static_assert(!std::is_pointer_v<Result> && !std::is_reference_v<Result>,
                "it would point into a Python object that is gone");

  NB_TYPE_CASTER(std::function<Return(Args...)>,
                 const_name("collections.abc.Callable[[") +
                     concat(make_caster<Args>::Name...) + const_name("], ") +
                     ResultCaster::Name + const_name("]"))

  bool from_python(handle source, uint8_t flags, cleanup_list*) noexcept {
    if (source.is_none()) return flags & cast_flags::convert;  // empty
    if (!PyCallable_Check(source.ptr())) return false;
    auto view = pyhold::InterpreterView::Current();
    if constexpr (std::is_void_v<Result>) {
      value = Callback(view, source.ptr(), Invoke);
    } else {
      value = Callback(view, source.ptr(), Invoke, [view](PyObject* result) {
        return Convert(view, result);
      });
    }
    return true;
  }

  static handle from_cpp(const Value& function, rv_policy policy,
                         cleanup_list*) noexcept {
    if (policy == rv_policy::none) return handle();
    if (!function) return none().release();
    return cpp_function(function).release();
  }

 private:
  // Both: nanobind's exceptions hold Python objects, so they end here.

  static PyObject* Invoke(PyObject* callable, Args... args) {
    try {
      return handle(callable)(std::forward<Args>(args)...).release().ptr();
    } catch (python_error& e) {
      e.restore();
    } catch (const std::bad_cast&) {
      PyErr_SetString(PyExc_TypeError, "an argument has no form in Python");
    }
    return nullptr;
  }

  static Return Convert(const pyhold::InterpreterView& view, PyObject* result) {
    try {
      return nanobind::cast<Result>(handle(result));
    } catch (python_error& e) {
      e.restore();
    } catch (const std::bad_cast&) {
      PyErr_Format(PyExc_TypeError, "a callback returned %.200R", result);
    }
    return Callback::FromPendingError(view);
  }
};

}  // namespace nanobind::detail

// For the module's init function: PythonRaised becomes in Python the exception
// that it was there, with its traceback.
inline void RegisterPythonRaised() {
  nanobind::register_exception_translator(
      [](const std::exception_ptr& thrown, void*) {
        try {
          std::rethrow_exception(thrown);
        } catch (const PythonRaised& e) {
          if (e.error().Restore() != PYHOLD_OK)
            PyErr_SetString(PyExc_RuntimeError, e.what());
        }
      });
}

#endif  // PYHOLD_EXAMPLES_NANOBIND_SAFE_FUNCTION_H_
