// Plain pairs, in a program that is run after pyhold_migrate has rewritten it:
// see BUILD.bazel. Native threads call each callback twice, while Python lives
// and after its end. As it stands here, the second calls crash.
#include "tests/support/python.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "pyhold/interpreter_view.h"

namespace {

const pyhold::InterpreterView* view;

void Simple() {
  PyGILState_STATE gil = PyGILState_Ensure();
  Exec("calls += 1");
  PyGILState_Release(gil);
}

void WithLocals(const char* text) {
  std::string code(text);
  PyGILState_STATE gil;
  gil = PyGILState_Ensure();
  PyObject *main = PyImport_AddModule("__main__"), *dict = nullptr;
  if (main != nullptr) {
    dict = PyModule_GetDict(main);
    PyObject* result = PyRun_String(code.c_str(), Py_single_input, dict, dict);
    Py_XDECREF(result);
  }
  Py_BEGIN_ALLOW_THREADS;
  code.clear();
  Py_END_ALLOW_THREADS;
  try {
    for (int i = 0; i < 2; ++i) {
      if (i == 1) break;
      std::string("calls += 1").swap(code);
    }
  } catch (...) {
  }
  PyGILState_Release(gil);  // code is destroyed afterwards
  return;
}

class Callback final {
 public:
  explicit Callback(std::string code) : code_{std::move(code)} {}
  void operator()() const noexcept {
    const PyGILState_STATE state = PyGILState_Ensure();
    Exec(code_.c_str());
    PyGILState_Release(state);
  }
  template <typename T>
  void Call(T times) const;

 private:
  std::string code_;
};

template <typename T>
void Callback::Call(T times) const {
  PyGILState_STATE gil = PyGILState_Ensure();
  for (T i = 0; i < times; ++i) Exec(code_.c_str());
  PyGILState_Release(gil);
}

void CallAll() {
  std::thread(Simple).join();
  std::thread(WithLocals, "calls += 1").join();
  std::thread(Callback("calls += 1")).join();
  std::thread([] { Callback("calls += 1").Call<long>(1); }).join();
  std::thread([] {
    PyGILState_STATE gil = PyGILState_Ensure();
    Exec("calls += 1");
    PyGILState_Release(gil);
  }).join();
  // clang-format off
  std::thread([](int) -> void { auto one = 1; (void)one; PyGILState_STATE g = PyGILState_Ensure(); Exec("calls += 1"); PyGILState_Release(g); }, 0).join();
  // clang-format on
}

}  // namespace

int main() {
  StartPython();
  view = new pyhold::InterpreterView(pyhold::InterpreterView::Current());
  Exec("calls = 0");
  Py_BEGIN_ALLOW_THREADS;
  CallAll();
  Py_END_ALLOW_THREADS;
  const long calls = Eval("calls");
  if (calls != 6) {
    std::printf("%ld calls, not 6\n", calls);
    return 1;
  }
  if (Py_FinalizeEx() != 0) return 1;
  CallAll();  // refused: each comes back, and has called nothing
  delete view;
}
