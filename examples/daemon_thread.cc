// A thread that Python does not wait for.
//
// It is inside a guard for as long as it lives, which would keep the
// interpreter from finalizing for as long. pyhold_thread_set_daemon() gives
// up that protection: Py_FinalizeEx goes on without the thread.
//
// The price is that of Python's own daemon threads: should it call Python
// again after the end, CPython hangs or ends it there. So prefer not to need
// this. A thread that leaves its guard while it waits, and makes a new one when
// there is something to do, delays nothing either, and is refused with a
// status.
#include <unistd.h>

#include <cstdio>
#include <future>
#include <thread>

#include "examples/embed.h"
#include "pyhold/pyhold.h"

namespace {

int wire[2];  // a pipe, from which nothing ever comes
std::promise<void>& listens = *new std::promise<void>;  // outlives main()

void Listen(const pyhold::InterpreterView& view) {
  pyhold::ThreadStateGuard guard(view);
  expect(bool(guard), "Python lives");
  expect(pyhold_thread_set_daemon(true) == PYHOLD_OK, "it becomes a daemon");
  run_python("heard = 'nothing yet'");
  char byte;
  // A ThreadStateDetachGuard would do the same.
  Py_BEGIN_ALLOW_THREADS;
  listens.set_value();
  (void)!read(wire[0], &byte, 1);
  Py_END_ALLOW_THREADS;
}

}  // namespace

int main() {
  expect(pipe(wire) == 0, "a pipe is made");
  start_python();
  static const auto view = pyhold::InterpreterView::Current();
  std::thread([] { Listen(view); }).detach();
  Py_BEGIN_ALLOW_THREADS;
  listens.get_future().wait();
  Py_END_ALLOW_THREADS;
  run_python("assert heard == 'nothing yet'");

  // Should finalization wait for the thread all the same, it would wait for
  // ever: then let it give up after 5 s, and see that it did.
  static bool waited = false;
  pyhold_wait_policy policy = {};
  policy.give_up_after_ms = 5000;
  policy.report = [](const pyhold_wait_report*, void*) { waited = true; };
  pyhold_set_wait_policy(&policy);
  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  expect(!waited, "Python did not wait for the daemon");
  std::puts("Python has ended; the daemon still waits, and goes with main().");
}
