#ifndef PYHOLD_ON_CLOSE_H_
#define PYHOLD_ON_CLOSE_H_

#include <functional>
#include <utility>

#include "pyhold/core.h"
#include "pyhold/interpreter_view.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Calls fn() once before the view's interpreter ends, unless it is destroyed
// before: for code that makes finalization wait, such as an owner of an
// InterpreterRef, and must be told to let go. pyhold_on_close() says when.
//
// fn runs on the finalizing thread, detached. It must not call Python, and should
// only tell others: set a flag, notify a condition variable. It must not throw: an
// exception that leaves fn calls std::terminate().
//
// The destructor takes fn back. When it returns, fn has ended or will never be
// called, so fn may use what outlives this object. In a class, declare the OnClose
// after the members that fn uses. If fn runs just now, the destructor waits for it:
//
// - fn must not destroy its own OnClose.
// - If fn waits for a lock, don't destroy the OnClose with that lock in hand; if it
//   waits for a thread that needs the GIL, don't destroy the OnClose attached.
//
// Not movable, because pyhold has its address: std::optional and std::unique_ptr
// make one later, or end it sooner. Thread-safe against the end of the interpreter;
// in a child of os.fork() fn is not called.
//
//   std::atomic<bool> stop{false};
//   pyhold::OnClose on_close(view, [&] { stop = true; });
//   if (!on_close) return on_close.status();  // too late: fn is never called
//   while (!stop) ...
class [[nodiscard]] OnClose final {
 public:
  // Attached: not needed. An empty view gives its own status. Throws only what
  // copying fn throws, or std::bad_alloc.
  OnClose(const InterpreterView& view, std::function<void()> fn)
      : view_(view), fn_(std::move(fn)) {
    status_ = view_ ? pyhold_on_close(view_.raw(), Call, this) : view_.status();
  }

  OnClose(const OnClose&) = delete;
  OnClose& operator=(const OnClose&) = delete;

  // Attached: not needed. Blocks: while fn runs.
  ~OnClose() {
    if (status_ == PYHOLD_OK) pyhold_on_close_cancel(view_.raw(), Call, this);
  }

  explicit operator bool() const noexcept { return status_ == PYHOLD_OK; }

  // OK: fn is called when the interpreter ends, or was called. Else it is never
  // called: EFINALIZING, ENOMEM.
  pyhold_status status() const noexcept { return status_; }

 private:
  static void Call(void* self) noexcept { static_cast<OnClose*>(self)->fn_(); }

  InterpreterView view_;
  std::function<void()> fn_;
  pyhold_status status_;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_ON_CLOSE_H_
