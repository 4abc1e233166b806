#ifndef PYHOLD_PERSISTENT_THREAD_STATE_H_
#define PYHOLD_PERSISTENT_THREAD_STATE_H_

#include <utility>

#include "pyhold/core.h"
#include "pyhold/interpreter_view.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Makes values last from call to call: threading.local, context variables and all
// else that calls leave in a thread state (docs/native_threads.md). Owns a thread
// state of the calling thread, or none. While it exists, every ThreadStateGuard for
// that interpreter on this thread uses that state, and does not clear it. Move-only;
// it may be moved about, but must be destroyed on the thread that made it.
//
// Without it, guards of the main interpreter keep the state but clear its values.
// Guards of a subinterpreter make and delete a state in each outermost call, so
// there it also makes calls cheap. It is a hold on the subinterpreter then;
// OnClose tells when to let go.
//
// The destructor clears the values on this thread, which runs Python destructors.
// If the thread had a state when this was made, that state lives on, cleared.
//
//   the thread is, at the destructor            what happens
//   detached, or attached to another            attached, cleared, deleted; then
//                                               as before
//   inside a guard that uses it                 the outermost guard does that
//   in a thread_local destructor                as above; it waits for the GIL,
//                                               so join this thread detached
//   alive, the main interpreter closed or gone  nothing: CPython deletes it
//   another                                     a line on stderr; it is leaked
//
//   void Worker(const pyhold::InterpreterView& view) {
//     pyhold::PersistentThreadState state(view);
//     if (!state) return;
//     while (auto job = queue.Next()) {
//       pyhold::ThreadStateGuard guard(view);
//       ...
//     }
//   }
class [[nodiscard]] PersistentThreadState final {
 public:
  // See pyhold_thread_state_new(). An empty view gives its own status.
  explicit PersistentThreadState(const InterpreterView& view) noexcept
      : status_(view ? pyhold_thread_state_new(view.raw(), &raw_)
                     : view.status()) {}

  PersistentThreadState() = default;
  PersistentThreadState(PersistentThreadState&& other) noexcept
      : raw_(std::exchange(other.raw_, nullptr)),
        status_(std::exchange(other.status_, PYHOLD_EMISUSE)) {}
  PersistentThreadState& operator=(PersistentThreadState&& other) noexcept {
    PersistentThreadState old(std::move(*this));
    raw_ = std::exchange(other.raw_, nullptr);
    status_ = std::exchange(other.status_, PYHOLD_EMISUSE);
    return *this;
  }
  ~PersistentThreadState() { pyhold_thread_state_delete(raw_); }

  explicit operator bool() const noexcept { return raw_ != nullptr; }
  // Why it is empty; EMISUSE if nobody asked for one.
  pyhold_status status() const noexcept { return status_; }

 private:
  pyhold_thread_state* raw_ = nullptr;
  pyhold_status status_ = PYHOLD_EMISUSE;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_PERSISTENT_THREAD_STATE_H_
