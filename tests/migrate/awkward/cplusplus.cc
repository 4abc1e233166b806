// clang-format off
#include <Python.h>

#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace {

const char* const kRaw = R"py(
  PyGILState_STATE gil = PyGILState_Ensure(); // " )" {
  PyGILState_Release(gil);
)py";
constexpr int kThousand = 1'000;

void ThreadIsJoinedAfterwards() {
  PyGILState_STATE gil = PyGILState_Ensure();
  JoiningThread worker(kThousand);
  worker.Start();
  PyGILState_Release(gil);
}

void LockIsLetGoAfterwards(std::mutex& mutex) {
  PyGILState_STATE gil = PyGILState_Ensure();
  std::lock_guard<std::mutex> lock(mutex);
  PyGILState_Release(gil);
}

void AutoMayBeAnything() {
  PyGILState_STATE gil = PyGILState_Ensure();
  auto thing = MakeThing();
  PyGILState_Release(gil);
}

void ReferenceMayKeepATemporary() {
  PyGILState_STATE gil = PyGILState_Ensure();
  const Thing& thing = MakeThing();
  PyGILState_Release(gil);
}

void AttributeBeforeADeclaration() {
  PyGILState_STATE gil = PyGILState_Ensure();
  [[maybe_unused]] Thing thing;
  PyGILState_Release(gil);
}

void AfterAnotherStatement(int n) {
  PyGILState_STATE gil = PyGILState_Ensure();
  if (n) { Thing first; } else Thing second;
  Py_BEGIN_ALLOW_THREADS
  Wait();
  Py_END_ALLOW_THREADS
  Thing third{n};
  PyGILState_Release(gil);
}

void AfterABlock(int n) {
  PyGILState_STATE gil = PyGILState_Ensure();
  for (int i = 0; i < n; ++i) { Work(i); }
  Thing thing;
  PyGILState_Release(gil);
}

void Bindings() {
  PyGILState_STATE gil = PyGILState_Ensure();
  auto [a, b] = MakeThings();
  PyGILState_Release(gil);
}

void StaticState() {
  static PyGILState_STATE gil = PyGILState_Ensure();
  Work(nullptr);
  PyGILState_Release(gil);
}

void GuardBetween() {
  PyGILState_STATE gil = PyGILState_Ensure();
  { pyhold::ThreadStateGuard other(view); }
  PyGILState_Release(gil);
}

void MacroDeclares() {
  PyGILState_STATE gil = PyGILState_Ensure();
  TRACE_SCOPE("work");
  PyGILState_Release(gil);
}

void Throws(PyObject* callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  if (callback == nullptr) throw 1;
  PyGILState_Release(gil);
}

void ReleasedInEachHandler(PyObject* callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  try {
    Work(callback);
    PyGILState_Release(gil);
  } catch (...) {
    PyGILState_Release(gil);
    throw;
  }
}

void WholeFunctionTries() try {
  PyGILState_STATE gil = PyGILState_Ensure();
  Work(nullptr);
  PyGILState_Release(gil);
} catch (...) {
}

Task Coroutine(PyObject* callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  Work(callback);
  co_await Other();
  PyGILState_Release(gil);
}

auto lambda_with_a_value = [](PyObject* callback) {
  if (callback == nullptr) return false;
  PyGILState_STATE gil = PyGILState_Ensure();
  Work(callback);
  PyGILState_Release(gil);
};

auto lambda_with_a_type = [](PyObject* callback) -> Status {
  PyGILState_STATE gil = PyGILState_Ensure();
  Work(callback);
  PyGILState_Release(gil);
};

void LambdaReleases() {
  PyGILState_STATE gil = PyGILState_Ensure();
  auto* end = new auto([gil] { PyGILState_Release(gil); });
  (*end)();
}

void LambdaWithAPairBetween() {
  PyGILState_STATE gil = PyGILState_Ensure();
  Run([&](PyObject* callback) {
    PyGILState_STATE inner = PyGILState_Ensure();
    Work(callback);
    PyGILState_Release(inner);
    Notify();
  });
  PyGILState_Release(gil);
}

template <typename T>
T Template(PyObject* callback) {
  const PyGILState_STATE gil = PyGILState_Ensure();
  T value = Convert<T>(callback);
  PyGILState_Release(gil);
  return value;
}

auto DeducedType(PyObject* callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  Work(callback);
  PyGILState_Release(gil);
}

void Braced() {
  PyGILState_STATE gil{PyGILState_Ensure()};
  Work(nullptr);
  PyGILState_Release(gil);
}

void StateIsAuto() {
  auto gil = PyGILState_Ensure();
  Work(nullptr);
  PyGILState_Release(gil);
}

void CapturedByName() {
  PyGILState_STATE gil = PyGILState_Ensure();
  Run([gil] { Work(gil); });
  PyGILState_Release(gil);
}

class Thing {
 public:
  Thing() {
    PyGILState_STATE gil = PyGILState_Ensure();
    Work(nullptr);
    PyGILState_Release(gil);
  }
  ~Thing() {
    PyGILState_STATE gil = PyGILState_Ensure();
    Work(nullptr);
    PyGILState_Release(gil);
  }
};

TEST(Suite, Name) {
  PyGILState_STATE gil = PyGILState_Ensure();
  Work(nullptr);
  PyGILState_Release(gil);
}

auto pointer = &PyGILState_Ensure;
using Ensure = decltype(PyGILState_Ensure);

}  // namespace
