// For std::function parameters of pybind11 functions: in place of
// <pybind11/functional.h>, whose functions may be copied, called and destroyed
// only while Python lives. These may be at any time, on any thread.
//
// A function that returns a status type (see pyhold::StatusTraits) returns its
// failures, too. Any other throws them: PythonRefused or PythonRaised.
#ifndef PYHOLD_EXAMPLES_PYBIND11_SAFE_FUNCTION_H_
#define PYHOLD_EXAMPLES_PYBIND11_SAFE_FUNCTION_H_

#include <pybind11/pybind11.h>
//
#include <exception>
#include <functional>
#include <type_traits>
#include <utility>

#include "examples/result_value.h"
#include "examples/status_types.h"
#include "pyhold/py_callback.h"
#include "pyhold/pyhold.h"

namespace pybind11::detail {

template <typename Return, typename... Args>
struct type_caster<std::function<Return(Args...)>> {
  using Function = std::function<Return(Args...)>;
  using Callback = pyhold::PyCallback<Return(Args...), StatusOrThrown<Return>>;
  using Value = ResultValue<Return>;
  using ValueCaster =
      make_caster<std::conditional_t<std::is_void_v<Value>, void_type, Value>>;
  static_assert(!std::is_pointer_v<Value> && !std::is_reference_v<Value>,
                "it would point into a Python object that is gone");

  bool load(handle source, bool convert) {
    if (source.is_none()) return convert;  // an empty function
    if (!PyCallable_Check(source.ptr())) return false;
    auto view = pyhold::InterpreterView::Current();
    if constexpr (std::is_void_v<Value>) {
      value = Callback(view, source.ptr(), Invoke);
    } else {
      value = Callback(view, source.ptr(), Invoke, [view](PyObject* result) {
        return Convert(view, result);
      });
    }
    return true;
  }

  template <typename F>
  static handle cast(F&& function, return_value_policy policy, handle) {
    if (!function) return none().release();
    return cpp_function(std::forward<F>(function), policy).release();
  }

  PYBIND11_TYPE_CASTER(
      Function, const_name("collections.abc.Callable[[") +
                    ::pybind11::detail::concat(make_caster<Args>::name...) +
                    const_name("], ") + ValueCaster::name + const_name("]"));

 private:
  // Both: pybind11's exceptions hold Python objects, so they end here.

  static PyObject* Invoke(PyObject* callable, Args... args) {
    try {
      return handle(callable)(std::forward<Args>(args)...).release().ptr();
    } catch (error_already_set& e) {
      e.restore();
    } catch (const builtin_exception& e) {
      e.set_error();
    }
    return nullptr;
  }

  static Return Convert(const pyhold::InterpreterView& view, PyObject* result) {
    try {
      return pybind11::cast<Value>(handle(result));
    } catch (error_already_set& e) {
      e.restore();
    } catch (const cast_error&) {
      PyErr_Format(PyExc_TypeError, "a callback returned %.200R", result);
    }
    return Callback::FromPendingError(view);
  }
};

}  // namespace pybind11::detail

// For the module's init function: PythonRaised becomes in Python the exception
// that it was there, with its traceback.
inline void RegisterPythonRaised() {
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const PythonRaised& e) {
      if (e.error().Restore() != PYHOLD_OK)
        PyErr_SetString(PyExc_RuntimeError, e.what());
    }
  });
}

#endif  // PYHOLD_EXAMPLES_PYBIND11_SAFE_FUNCTION_H_
