#ifndef PYHOLD_PEP788_INTEROP_H_
#define PYHOLD_PEP788_INTEROP_H_

#include "pyhold/error_state.h"
#include "pyhold/interpreter_ref.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/pep788.h"
#include "pyhold/thread_state_guard.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Between pyhold's references and those of PEP 788's API, so that libraries that
// use the one and the other meet in one program. On 3.15 and newer the latter are
// CPython's, elsewhere pep788.h's.
//
//   pyhold::InterpreterView view = pyhold::FromPep788(their_view);
//   PyInterpreterGuard* guard = ToPep788(ref);
//   start_thread(work, guard);  // closes it
//
// All four attach the calling thread for a moment; so they wait for the GIL, and
// make the interpreter known to pyhold. They set no exception. FromPep788() borrows
// its argument; the caller must close what ToPep788() returns.
//
// Attached: not needed.   Threads: any.
//
// pyhold's gate closes in an atexit callback, and CPython gives guards until it
// has waited for the last one. In between a guard is no way into pyhold: what
// asks for a new hold or view then gets PYHOLD_EFINALIZING.

// Empty on failure: EFINALIZING, ENOMEM.
inline InterpreterRef FromPep788(PyInterpreterGuard* guard) noexcept {
  PyThreadStateToken* token = PyThreadState_Ensure(guard);
  if (token == nullptr) return InterpreterRef::FromRaw(nullptr, PYHOLD_ENOMEM);
  InterpreterRef ref = InterpreterRef::Current();
  PyThreadState_Release(token);
  return ref;
}

// NULL on failure: the ref is empty, CPython's wait was given up, or there is no
// memory.
[[nodiscard]] inline PyInterpreterGuard* ToPep788(
    const InterpreterRef& ref) noexcept {
  ThreadStateGuard attached(ref);
  if (!attached) return nullptr;
  ErrorState callers;
  return PyInterpreterGuard_FromCurrent();
}

// Empty on failure: EFINALIZING (also when the ensure failed for want of memory:
// PEP 788's API does not tell), ENOMEM.
inline InterpreterView FromPep788(PyInterpreterView* view) noexcept {
  PyThreadStateToken* token = PyThreadState_EnsureFromView(view);
  if (token == nullptr)
    return InterpreterView::FromRaw(nullptr, PYHOLD_EFINALIZING);
  InterpreterView result = InterpreterView::Current();
  PyThreadState_Release(token);
  return result;
}

// NULL on failure: the view is empty or refuses, or there is no memory.
[[nodiscard]] inline PyInterpreterView* ToPep788(
    const InterpreterView& view) noexcept {
  ThreadStateGuard attached(view);
  if (!attached) return nullptr;
  ErrorState callers;
  return PyInterpreterView_FromCurrent();
}

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_PEP788_INTEROP_H_
