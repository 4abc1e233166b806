#ifndef PYHOLD_DEFER_H_
#define PYHOLD_DEFER_H_

#include <new>
#include <type_traits>
#include <utility>

#include "pyhold/core.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/thread_annotations.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

namespace internal {

// The node of one Defer(), and what it calls.
template <typename F>
struct DeferredCall final : pyhold_deferred {
  template <typename G>
  explicit DeferredCall(G&& g)
      : pyhold_deferred{nullptr, &Run}, fn(std::forward<G>(g)) {}

  static void Run(pyhold_deferred* node, bool attached) noexcept {
    auto* call = static_cast<DeferredCall*>(node);
    if (attached) {
      PYHOLD_ASSUME_ATTACHED();
      std::move(call->fn)();
    }
    delete call;
  }

  F fn;
};

}  // namespace internal

// Calls fn() once, soon, attached to the view's interpreter, on another thread:
// for a thread that has something to do in Python and must not wait for the GIL.
// pyhold_defer() has the rules: the order, who calls, what a slow fn delays.
//
// If the interpreter ends first, fn is destroyed without being called: on this
// thread, before Defer() returns, or on the thread that finalizes. fn is also
// destroyed after its call, attached. So fn must not own Python objects, except
// as ObjectRefs and BufferRefs.
//
// fn must not throw: an exception that leaves fn calls std::terminate(). A Python
// exception that fn leaves set goes to sys.unraisablehook.
//
// Attached:    not needed.
// Returns:     OK      fn is called or destroyed, as above;
//              ENOMEM  fn is not called;
//              the view's own status, if the view is empty: fn is not called.
// Throws:      only what moving or copying fn throws. Nothing is deferred then.
// Thread-safe: yes.
//
//   pyhold_status status = pyhold::Defer(view, [callback, rows] {
//     Py_XDECREF(PyObject_CallFunction(callback.get(), "l", rows));
//   });
//
// To wait until all is done, in tests and at shutdown: pyhold_deferred_wait().
template <typename F>
[[nodiscard]] pyhold_status Defer(const InterpreterView& view, F&& fn) {
  using Call = internal::DeferredCall<std::decay_t<F>>;
  static_assert(std::is_invocable_v<std::decay_t<F>>, "fn is called as fn()");
  if (!view) return view.status();
  auto* call = new (std::nothrow) Call(std::forward<F>(fn));
  if (call == nullptr) return PYHOLD_ENOMEM;
  pyhold_defer(view.raw(), call);
  return PYHOLD_OK;
}

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_DEFER_H_
