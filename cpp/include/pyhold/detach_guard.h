#ifndef PYHOLD_DETACH_GUARD_H_
#define PYHOLD_DETACH_GUARD_H_

#include "pyhold/core.h"
#include "pyhold/thread_annotations.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Detaches the calling thread for a scope, and attaches the same thread state
// again at its end. The interpreter is kept from finalizing meanwhile, so that
// coming back can never hang, which Py_BEGIN_ALLOW_THREADS does not promise.
//
// Refused, and still attached, on a thread of Python's own that comes here
// while its interpreter finalizes: test it before anything that blocks for
// long. The finalizing thread itself is not refused. A thread that is not
// attached gets PYHOLD_EDETACHED, and nothing happens.
//
//   {
//     pyhold::ThreadStateDetachGuard detached;
//     if (!detached) return detached.status();
//     n = read(fd, buffer, size);
//   }
class [[nodiscard]] ThreadStateDetachGuard final {
 public:
  // See pyhold_frame_detach(). To clang's analysis, who detaches was attached,
  // and is again at the end: so functions without an annotation may, too.
  explicit ThreadStateDetachGuard(const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) noexcept
      PYHOLD_TSA_(assert_capability(attached)) PYHOLD_DETACHES
      : status_(pyhold_frame_detach(&frame_, file, line)) {}

  ThreadStateDetachGuard(const ThreadStateDetachGuard&) = delete;
  ThreadStateDetachGuard& operator=(const ThreadStateDetachGuard&) = delete;

  ~ThreadStateDetachGuard() PYHOLD_TSA_(assert_capability(attached)) {
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

#endif  // PYHOLD_DETACH_GUARD_H_
