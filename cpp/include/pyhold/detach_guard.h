#ifndef PYHOLD_DETACH_GUARD_H_
#define PYHOLD_DETACH_GUARD_H_

#include "pyhold/core.h"
#include "pyhold/thread_annotations.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Asks a ThreadStateDetachGuard to hold the interpreter.
struct Holding {};
inline constexpr Holding kHolding{};

// Detaches the calling thread for a scope, and attaches the same thread state again
// at its end. Plain, it replaces Py_BEGIN_ALLOW_THREADS, and lets the interpreter
// finalize meanwhile. With kHolding the interpreter waits for the thread. core.h says
// at pyhold_detach when to use which.
//
// A thread that is not attached gets PYHOLD_EDETACHED, and nothing happens. With
// kHolding a daemon thread that comes here after the gate has closed is refused,
// and stays attached: test the guard.
//
// A function that is called both ways, attached and detached, makes the same guard:
//
//   status()                  the thread was   the thread is now
//   OK                        attached         detached until the guard ends
//   EDETACHED                 detached         detached: the guard does nothing
//   EFINALIZING, ENOMEM,      attached         attached still: whoever blocks now
//   EMISUSE                                    keeps the GIL
//
// IsDetached() is true in the first two rows. A destructor is such a function, and
// has nobody to return a status to. The way without kHolding is refused there only
// without memory, in a CPython that the core was not compiled for, or if the
// interpreter first meets pyhold after its atexit callbacks. Don't join a thread
// then that may need the GIL, which it never gets: leave it running.
//
//   Pool::~Pool() {
//     pyhold::ThreadStateDetachGuard detached;
//     if (detached.IsDetached()) {
//       thread_.join();
//     } else {
//       thread_.detach();
//     }
//   }
//
// Must be left on its thread, while that thread is detached.
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
      : status_(pyhold_frame_detach(&frame_, PYHOLD_DETACH_RELEASED, file,
                                    line)) {}

  explicit ThreadStateDetachGuard(Holding, const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) noexcept
      PYHOLD_TSA_(assert_capability(attached)) PYHOLD_DETACHES
      : status_(pyhold_frame_detach(&frame_, PYHOLD_DETACH_HOLDING, file,
                                    line)) {}

  ThreadStateDetachGuard(const ThreadStateDetachGuard&) = delete;
  ThreadStateDetachGuard& operator=(const ThreadStateDetachGuard&) = delete;

  ~ThreadStateDetachGuard() PYHOLD_TSA_(assert_capability(attached)) {
    if (status_ == PYHOLD_OK) pyhold_frame_leave(frame_);
  }

  explicit operator bool() const noexcept { return status_ == PYHOLD_OK; }
  pyhold_status status() const noexcept { return status_; }

  // Whether the thread is detached now, by this guard or before. See
  // pyhold_frame_detach() about 3.11 with subinterpreters.
  bool IsDetached() const noexcept {
    return status_ == PYHOLD_OK || status_ == PYHOLD_EDETACHED;
  }

 private:
  pyhold_frame* frame_ = nullptr;
  pyhold_status status_;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_DETACH_GUARD_H_
