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

void LockedBefore(std::mutex& mutex) {
  mutex.lock();
  PyGILState_STATE gil = PyGILState_Ensure();
  Work(nullptr);
  mutex.unlock();
  PyGILState_Release(gil);
}

void LockedBeforeByAFunction(std::mutex& a, std::mutex& b) {
  std::lock(a, b);
  PyGILState_STATE gil = PyGILState_Ensure();
  a.unlock();
  b.unlock();
  PyGILState_Release(gil);
}

void NewBefore() {
  auto* thing = new Thing;
  PyGILState_STATE gil = PyGILState_Ensure();
  delete thing;
  PyGILState_Release(gil);
}

void ConstructorIsGivenWhatWasTaken(void* arg) {
  Pointer p(Take(arg));
  PyGILState_STATE gil = PyGILState_Ensure();
  Give(p);
  PyGILState_Release(gil);
}

void LambdaBefore(std::mutex& arg) {
  auto give = [&] { arg.lock(); };
  PyGILState_STATE gil = PyGILState_Ensure();
  Work(nullptr);
  PyGILState_Release(gil);
}

void LocalClass() {
  PyGILState_STATE gil = PyGILState_Ensure();
  struct Local { ~Local() {} } local;
  PyGILState_Release(gil);
}

void LocalClassWithAValue() {
  PyGILState_STATE gil = PyGILState_Ensure();
  class Local { int n; } local = {};
  PyGILState_Release(gil);
}

void NamelessClass() {
  PyGILState_STATE gil = PyGILState_Ensure();
  struct : Thing {} thing;
  PyGILState_Release(gil);
}

void NamelessUnion() {
  PyGILState_STATE gil = PyGILState_Ensure();
  union { Thing thing; } u;
  PyGILState_Release(gil);
}

void AfterALabel() {
  PyGILState_STATE gil = PyGILState_Ensure();
label: Thing thing;
  PyGILState_Release(gil);
}

void InBrackets() {
  PyGILState_STATE gil = PyGILState_Ensure();
  Thing(thing);
  PyGILState_Release(gil);
}

void InMoreBrackets() {
  PyGILState_STATE gil = PyGILState_Ensure();
  Holder<int>((thing)), other;
  PyGILState_Release(gil);
}

void ArrayInBrackets() {
  PyGILState_STATE gil = PyGILState_Ensure();
  ns::Thing(things[2]);
  PyGILState_Release(gil);
}

void ConstInBrackets(Thing& thing) {
  PyGILState_STATE gil = PyGILState_Ensure();
  const Thing(thing);
  PyGILState_Release(gil);
}

void ReferenceInBrackets() {
  PyGILState_STATE gil = PyGILState_Ensure();
  Thing(&&thing) = Thing();
  PyGILState_Release(gil);
}

void NamedAsIfPythons() {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyObject_Holder holder;
  PyGILState_Release(gil);
}

void NamedLikeAPython() {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRef ref{nullptr};
  PyGILState_Release(gil);
}

auto pointer = &PyGILState_Ensure;
using Ensure = decltype(PyGILState_Ensure);

}  // namespace
