#ifndef PYHOLD_THREAD_STATE_GUARD_H_
#define PYHOLD_THREAD_STATE_GUARD_H_

#include "pyhold/core.h"
#include "pyhold/interpreter_ref.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/thread_annotations.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Attaches the calling thread to an interpreter for a scope, or says why not.
// While it lives the interpreter does not finalize. Afterwards the thread is
// what it was before: attached to the same, to another, or detached.
//
//   the thread was             inside                  afterwards
//   attached to I              the same thread state   attached to it
//   detached, has a state      that state              detached
//   without a state            a new state             detached (*)
//   attached to J              a state of I            attached to J's
//   anything, refused          unchanged               unchanged
//
// (*) The thread keeps the state itself for its next guard, or the guard deletes
// it: see pyhold_keep. The values in it do not last either way: when the thread's
// outermost guard ends, it clears threading.local, context variables and the like
// (docs/native_threads.md). A PersistentThreadState makes them last.
//
// An exception that is pending when the outermost guard ends goes to
// sys.unraisablehook, so the thread's next guard starts without it.
//
// The constructor runs no destructors of other threads' objects, so the caller may
// hold a lock. (Two exceptions: pyhold_set_service_thread(), and values that
// PyGILState_Ensure left on this thread.) The destructor clears what the call left,
// which runs Python destructors: release locks that they need before it.
//
// Don't block while attached: no other Python thread can run. Put a
// ThreadStateDetachGuard around what blocks. This guard goes on holding the
// interpreter, so keep work that may block for long out of it (core.h, at
// pyhold_detach). Report exceptions with PyErr_WriteUnraisable(): PyErr_Print() may
// end the process.
//
// A guard must be left on its thread. Guards of one interpreter that nest may be
// left in any order, as greenlets, fibers and coroutines do. A guard that attached
// a thread state must be left while that state is attached; otherwise pyhold ends
// the process with a message.
//
//   pyhold::ThreadStateGuard guard(view);
//   if (!guard) return guard.status();  // PYHOLD_EFINALIZING, mostly
//   PyObject_CallNoArgs(callback);
class [[nodiscard]] PYHOLD_TSA_(scoped_lockable) ThreadStateGuard final {
 public:
  // See pyhold_thread_ensure_view(). An empty view gives its own status.
  explicit ThreadStateGuard(
      const InterpreterView& view, const char* file = __builtin_FILE(),
      int line = __builtin_LINE()) noexcept PYHOLD_ATTACHES
      : status_(view ? pyhold_frame_enter_view(&frame_, view.raw(), file, line)
                     : view.status()) {}

  // See pyhold_thread_ensure(): cannot be refused for finalization. The ref, if
  // moved here, is given back before the constructor returns: the guard protects
  // by itself. An empty ref gives its own status.
  explicit ThreadStateGuard(
      InterpreterRef ref, const char* file = __builtin_FILE(),
      int line = __builtin_LINE()) noexcept PYHOLD_ATTACHES
      : status_(ref ? pyhold_frame_enter(&frame_, ref.raw(), file, line)
                    : ref.status()) {}

  ThreadStateGuard(const ThreadStateGuard&) = delete;
  ThreadStateGuard& operator=(const ThreadStateGuard&) = delete;

  ~ThreadStateGuard() PYHOLD_TSA_(release_capability()) {
    if (status_ == PYHOLD_OK) pyhold_frame_leave(frame_);
  }

  explicit operator bool() const noexcept { return status_ == PYHOLD_OK; }
  pyhold_status status() const noexcept { return status_; }

 private:
  pyhold_frame* frame_ = nullptr;
  pyhold_status status_;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_THREAD_STATE_GUARD_H_
