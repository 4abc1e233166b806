#ifndef PYHOLD_INTERPRETER_VIEW_H_
#define PYHOLD_INTERPRETER_VIEW_H_

#include <cstdint>
#include <utility>

#include "pyhold/core.h"
#include "pyhold/interpreter_ref.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Names an interpreter without keeping it alive; asks for holds, and may be
// refused. Cheap to copy. This is what to store: in a module's state, in a
// callback, in a static pointer.
//
// For a view of the whole process use a static pointer that is never deleted, as
// below. A plain static object is destroyed when the process exits, while detached
// threads may still use it. Set the pointer while attached: in the module's init
// function, or as a function's static, because making a view runs no byte code.
//
// Thread-safe:       Current(), Main(); const members of one object.
// Thread-compatible: the rest.
//
//   // in the module's init function, attached:
//   static const auto* view =
//       new pyhold::InterpreterView(pyhold::InterpreterView::Current());
//   // later, on any thread:
//   pyhold::ThreadStateGuard guard(*view);
//   if (!guard) return guard.status();
class [[nodiscard]] InterpreterView final {
 public:
  // See pyhold_view_current(). Empty on failure: ask status().
  static InterpreterView Current() noexcept {
    pyhold_view* raw;
    pyhold_status status = pyhold_view_current(&raw);
    return InterpreterView(raw, status);
  }

  // See pyhold_view_main(). Empty on failure: ask status().
  static InterpreterView Main() noexcept {
    pyhold_view* raw;
    pyhold_status status = pyhold_view_main(&raw);
    return InterpreterView(raw, status);
  }

  // See pyhold_view_of_thread(): the interpreter that this thread came from; else
  // that of `fallback`, which may be empty.
  static InterpreterView OfThisThread(
      const InterpreterView& fallback) noexcept {
    pyhold_view* raw;
    pyhold_status status = pyhold_view_of_thread(fallback.raw_, &raw);
    return InterpreterView(raw, status);
  }
  static InterpreterView OfThisThread() noexcept {
    return OfThisThread(InterpreterView());
  }

  // Takes over a view from the C API; from NULL makes an empty object, with `status`.
  static InterpreterView FromRaw(
      pyhold_view* raw, pyhold_status status = PYHOLD_EMISUSE) noexcept {
    return InterpreterView(raw, raw != nullptr ? PYHOLD_OK : status);
  }

  InterpreterView() = default;
  InterpreterView(const InterpreterView& other) noexcept
      : raw_(other.raw_ != nullptr ? pyhold_view_dup(other.raw_) : nullptr),
        status_(other.status_) {}
  InterpreterView(InterpreterView&& other) noexcept
      : raw_(std::exchange(other.raw_, nullptr)),
        status_(std::exchange(other.status_, PYHOLD_EMISUSE)) {}
  InterpreterView& operator=(InterpreterView other) noexcept {
    std::swap(raw_, other.raw_);
    std::swap(status_, other.status_);
    return *this;
  }
  ~InterpreterView() { pyhold_view_free(raw_); }

  explicit operator bool() const noexcept { return raw_ != nullptr; }

  // Why it is empty; EMISUSE if nobody asked for an interpreter. OK does not
  // mean that the interpreter lives: only a hold or an ensure can tell.
  pyhold_status status() const noexcept { return status_; }

  // Requires: not empty.
  std::int64_t id() const noexcept { return pyhold_view_id(raw_); }

  // See pyhold_view_hold(). An empty view gives its own status.
  InterpreterRef Hold() const noexcept {
    InterpreterRef ref;
    if (raw_ == nullptr) {
      ref.status_ = status_;
    } else {
      ref.status_ = pyhold_view_hold(raw_, &ref.raw_);
    }
    return ref;
  }

  // The same interpreter with another policy for the thread states that guards
  // make: see pyhold_keep. An empty view gives its own status.
  InterpreterView With(pyhold_keep keep) const noexcept {
    if (raw_ == nullptr) return *this;
    pyhold_view* raw;
    pyhold_status status = pyhold_view_with(raw_, keep, &raw);
    return InterpreterView(raw, status);
  }

  // See pyhold_view_is_attached(). Requires: not empty.
  bool IsAttached() const noexcept { return pyhold_view_is_attached(raw_); }

  // See pyhold_view_is_closed(): a hint for code that has another way. True for an
  // empty view.
  bool IsClosed() const noexcept { return pyhold_view_is_closed(raw_); }

  // The view as the C API has it; stays owned by this object.
  pyhold_view* raw() const noexcept { return raw_; }

 private:
  InterpreterView(pyhold_view* raw, pyhold_status status) noexcept
      : raw_(raw), status_(status) {}

  pyhold_view* raw_ = nullptr;
  pyhold_status status_ = PYHOLD_EMISUSE;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_INTERPRETER_VIEW_H_
