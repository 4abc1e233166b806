#ifndef PYHOLD_INTERPRETER_REF_H_
#define PYHOLD_INTERPRETER_REF_H_

#include <cstdint>
#include <utility>

#include "pyhold/core.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Owns one hold on an interpreter, or none: while it exists, the interpreter
// does not finalize. Belongs to no thread. Copying takes another hold, which
// succeeds during finalization too.
//
// Not for keeping: an InterpreterRef in a static or a long-lived object makes
// the process wait at exit, for ever. Keep an InterpreterView instead.
//
// Thread-safe:       Current(), Lookup(); destroying distinct objects.
// Thread-compatible: one object used from two threads needs a lock.
//
//   if (auto ref = view.Hold()) {
//     pool.Submit([ref = std::move(ref)]() mutable {
//       pyhold::ThreadStateGuard guard(std::move(ref));  // not refused
//       ...
//     });
//   }
class [[nodiscard]] InterpreterRef final {
 public:
  // See pyhold_interp_hold(). Empty on failure: ask status().
  static InterpreterRef Current() noexcept {
    pyhold_interp* raw;
    pyhold_status status = pyhold_interp_hold(&raw);
    return InterpreterRef(raw, status);
  }

  // See pyhold_interp_lookup(). Empty on failure: ask status().
  static InterpreterRef Lookup(std::int64_t id) noexcept {
    pyhold_interp* raw;
    pyhold_status status = pyhold_interp_lookup(id, &raw);
    return InterpreterRef(raw, status);
  }

  // Takes over a hold from the C API; from NULL makes an empty object, with `status`.
  static InterpreterRef FromRaw(
      pyhold_interp* raw, pyhold_status status = PYHOLD_EMISUSE) noexcept {
    return InterpreterRef(raw, raw != nullptr ? PYHOLD_OK : status);
  }

  InterpreterRef() = default;
  InterpreterRef(const InterpreterRef& other) noexcept
      : raw_(other.raw_ != nullptr ? pyhold_interp_dup(other.raw_) : nullptr),
        status_(other.status_) {}
  InterpreterRef(InterpreterRef&& other) noexcept
      : raw_(std::exchange(other.raw_, nullptr)),
        status_(std::exchange(other.status_, PYHOLD_EMISUSE)) {}
  InterpreterRef& operator=(InterpreterRef other) noexcept {
    std::swap(raw_, other.raw_);
    std::swap(status_, other.status_);
    return *this;
  }
  ~InterpreterRef() { pyhold_interp_release(raw_); }

  explicit operator bool() const noexcept { return raw_ != nullptr; }

  // Why it is empty; EMISUSE if nobody asked for an interpreter.
  pyhold_status status() const noexcept { return status_; }

  // Requires, of both: not empty.
  std::int64_t id() const noexcept { return pyhold_interp_id(raw_); }
  struct _is* state() const noexcept { return pyhold_interp_state(raw_); }

  // The hold as the C API has it; stays owned by this object.
  pyhold_interp* raw() const noexcept { return raw_; }

  // Hands the hold to the caller, who must pyhold_interp_release() it.
  [[nodiscard]] pyhold_interp* IntoRaw() && noexcept {
    status_ = PYHOLD_EMISUSE;
    return std::exchange(raw_, nullptr);
  }

 private:
  friend class InterpreterView;

  InterpreterRef(pyhold_interp* raw, pyhold_status status) noexcept
      : raw_(raw), status_(status) {}

  pyhold_interp* raw_ = nullptr;
  pyhold_status status_ = PYHOLD_EMISUSE;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_INTERPRETER_REF_H_
