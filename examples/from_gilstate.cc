// Moving from PyGILState_Ensure to a guard: the same callback, before, after.
//
// A native thread calls the callback twice: while Python lives, and after it
// has ended. The old one can only be called while Python lives, which it
// cannot find out; the new one is told.
#include <cstdio>
#include <thread>

#include "examples/embed.h"
#include "pyhold/pyhold.h"

namespace {

// Before: which interpreter? Always the main one, or whichever this thread
// was in last. Is it alive? Nobody asks: if it finalizes, this line hangs the
// thread, ends it, or crashes.
void OldCallback() {
  PyGILState_STATE gil = PyGILState_Ensure();
  run_python("calls += 1");
  PyGILState_Release(gil);
}

// After: 1. store a view where the callback is set up, attached;
//        2. a guard in place of Ensure and Release;
//        3. an answer for "no".
pyhold_status NewCallback(const pyhold::InterpreterView& view) {
  pyhold::ThreadStateGuard guard(view);
  if (!guard) return guard.status();
  run_python("calls += 1");
  return PYHOLD_OK;
}

}  // namespace

int main() {
  start_python();
  run_python("calls = 0");
  auto view = pyhold::InterpreterView::Current();
  Py_BEGIN_ALLOW_THREADS;
  std::thread([&] {
    OldCallback();
    expect(NewCallback(view) == PYHOLD_OK, "a call while Python lives");
  }).join();
  Py_END_ALLOW_THREADS;
  run_python("assert calls == 2");
  expect(Py_FinalizeEx() == 0, "Python ends without an error");

  pyhold_status late = PYHOLD_OK;
  std::thread([&] { late = NewCallback(view); }).join();
  expect(late == PYHOLD_EFINALIZING, "a call after the end is refused");
  std::printf("While Python lived both callbacks ran; afterwards: %s.\n",
              pyhold_status_name(late));
}
