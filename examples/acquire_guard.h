// In place of pybind11's and nanobind's gil_scoped_acquire, which name no
// interpreter.
//
// Inside a gil_scoped_release they mean the interpreter that this thread let go of. A
// module that is imported into several interpreters must not go to the one of its own
// view there: objects of two interpreters would mix, and the process crashes. So this
// guard goes where the thread came from. Only a thread that came from nowhere, because
// Python did not create it, goes to `fallback`.
//
//   {
//     pyhold::ThreadStateDetachGuard detached;  // or gil_scoped_release
//     Work();
//     AcquireGuard acquired(*view);
//     callable();
//   }
#ifndef PYHOLD_EXAMPLES_ACQUIRE_GUARD_H_
#define PYHOLD_EXAMPLES_ACQUIRE_GUARD_H_

#include "examples/status_types.h"
#include "pyhold/pyhold.h"

class AcquireGuard final {
 public:
  // Throws PythonRefused: gil_scoped_acquire cannot fail, and pyhold may refuse.
  explicit AcquireGuard(const pyhold::InterpreterView& fallback)
      : guard_(Where(fallback)) {
    if (!guard_) throw PythonRefused(guard_.status());
  }

 private:
  static pyhold::InterpreterView Where(
      const pyhold::InterpreterView& fallback) {
    // A thread that is attached needs no new view, which would take memory.
    if (fallback && fallback.IsAttached()) return fallback;
    return pyhold::InterpreterView::OfThisThread(fallback);
  }

  pyhold::ThreadStateGuard guard_;
};

#endif  // PYHOLD_EXAMPLES_ACQUIRE_GUARD_H_
