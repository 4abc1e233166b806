// An extension module of pybind11 whose callbacks come from native threads, at
// any time.
#include <pybind11/pybind11.h>
//
#include <functional>
#include <string>

#include "examples/callers.h"
#include "examples/pybind11/safe_function.h"
#include "pyhold/pyhold.h"

namespace py = pybind11;

PYBIND11_MODULE(with_pybind11, m, py::mod_gil_not_used()) {
  // Detaches. A thread that comes back after Python has ended sleeps for good.
  // In place of py::gil_scoped_release.
  using detached = py::call_guard<pyhold::ThreadStateDetachGuard>;
  static Callers& callers = Callers::Get("with_pybind11");
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
