#ifndef PYHOLD_PERSISTENT_THREAD_STATE_H_
#define PYHOLD_PERSISTENT_THREAD_STATE_H_

#include <utility>

#include "pyhold/core.h"
#include "pyhold/interpreter_view.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Owns a thread state of the calling thread, or none: while it exists, every
// ThreadStateGuard for that interpreter on this thread uses it. Move-only; it
// may be moved about, but must be destroyed on the thread that made it.
//
// For subinterpreters: there each outermost guard makes and deletes a state
// otherwise. It is a hold then; pyhold_on_close() tells when to let go. States
// of the main interpreter are kept without it.
//
//   the thread is, at the destructor            what happens
//   detached, or attached to another            attached, deleted, as before
//   inside a guard that uses it                 that guard deletes it
//   in a thread_local destructor                as above; it waits for the GIL,
//                                               so join this thread detached
//   alive, the main interpreter closed or gone  nothing: CPython deletes it
//   another                                     a fatal message; with NDEBUG in
//                                               the core, it is leaked
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
