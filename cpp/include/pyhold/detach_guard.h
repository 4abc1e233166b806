#ifndef PYHOLD_DETACH_GUARD_H_
#define PYHOLD_DETACH_GUARD_H_

#include "pyhold/core.h"
#include "pyhold/thread_annotations.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Names the second way of a ThreadStateDetachGuard.
struct Holding {};
inline constexpr Holding kHolding{};

// Detaches the calling thread for a scope, and attaches the same thread state
// again at its end. There are two ways:
//
//                       ThreadStateDetachGuard g;    g(pyhold::kHolding)
//   takes the place of  Py_BEGIN_ALLOW_THREADS       the same, where code must
//                                                    come back
//   the interpreter     may finalize meanwhile       waits until the scope ends
//   coming back late    sleeps for good              cannot happen
//   around              read(), poll(), a queue, a   short work that must be
//                       join: whatever may block     finished
//
// Use the first unless something would be lost: with the second a thread in a long
// system call keeps the process from ending. Inside a ThreadStateGuard of the same
// interpreter both hold. Threads of Python's own that are not daemons are joined
// before the interpreter ends, so they are never late.
//
// A thread that is not attached gets PYHOLD_EDETACHED, and nothing happens. With
// kHolding a daemon thread that comes here after the gate has closed is refused,
// and stays attached: test the guard. PyErr_Print() may end the process on this
// thread (SystemExit), which waits for holders; PyErr_WriteUnraisable() does not.
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
