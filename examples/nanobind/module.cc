// An extension module of nanobind whose callbacks come from native threads, at
// any time.
#include "examples/nanobind/library.h"
//
#include <nanobind/stl/string.h>

#include <functional>
#include <string>

#include "examples/callers.h"
#include "examples/nanobind/safe_function.h"
#include "pyhold/pyhold.h"

namespace nb = nanobind;

NB_MODULE(with_nanobind, m) {
  // Detaches. A thread that comes back after Python has ended sleeps for good.
  // In place of nb::gil_scoped_release.
  using detached = nb::call_guard<pyhold::ThreadStateDetachGuard>;
  static Callers& callers = Callers::Get("with_nanobind");
  RegisterPythonRaised();

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
