// An extension module of nanobind whose callbacks come from native threads, at
// any time.
#include "examples/nanobind/library.h"
//
#include <nanobind/stl/string.h>

#include <functional>
#include <string>

#include "examples/acquire_guard.h"
#include "examples/callers.h"
#include "examples/nanobind/safe_function.h"
#include "pyhold/pyhold.h"

namespace nb = nanobind;

// Adds 1 to `steps`, on a thread that is detached, and reports each step to Python.
// Code like this does not know which interpreter it works for.
static long Compute(int steps, const nb::object& report,
                    const pyhold::InterpreterView& fallback) {
  long sum = 0;
  for (int step = 1; step <= steps; ++step) {
    sum += step;
    AcquireGuard acquired(fallback);  // in place of nb::gil_scoped_acquire
    try {
      report(step);
    } catch (nb::python_error& e) {
      e.discard_as_unraisable(report);
    }
  }
  return sum;
}

NB_MODULE(with_nanobind, m) {
  // Detaches. A thread that comes back after Python has ended sleeps for good.
  // In place of nb::gil_scoped_release.
  using detached = nb::call_guard<pyhold::ThreadStateDetachGuard>;
  static Callers& callers = Callers::Get("with_nanobind");
  RegisterPythonRaised();

  // The interpreter that imported this module first: for threads that came from
  // none. `here` makes each one known to pyhold that imports it.
  const auto here = pyhold::InterpreterView::Current();
  static const auto* first = new pyhold::InterpreterView(here);

  m.def(
      "compute",
      [](int steps, const nb::object& report) {
        return Compute(steps, report, *first);
      },
      detached());
  // The new thread came from nowhere, so it is told where to go.
  m.def("compute_on_new_thread", [](int steps, const nb::object& report) {
    const auto caller = pyhold::InterpreterView::Current();
    pyhold::ThreadStateDetachGuard detached;
    return OnNewThread([&] { return Compute(steps, report, caller); });
  });

  m.def("start", [](std::function<int(int)> callback, int n) {
    callers.Start(callback, n);
  });
  m.def("await_calls", [](long n) { callers.AwaitCalls(n); }, detached());
  m.def("keep", [](std::function<int(int)> callback) {
    callers.Keep(std::move(callback));
  });

  // Failures are thrown, and so reach Python again...
  m.def(
      "call",
      [](std::function<int(int)> callback, int x) {
        return OnNewThread([&] { return callback(x); });
      },
      detached());
  m.def(
      "tell",
      [](std::function<void(const std::string&)> callback, std::string text) {
        OnNewThread([&] { callback(text); });
      },
      detached());
  // ...or they are returned.
  m.def(
      "ask",
      [](std::function<Expected<std::string>(int)> callback, int x) {
        auto answer = OnNewThread([&] { return callback(x); });
        return answer ? *answer : "failed: " + answer.failure().message;
      },
      detached());
}
