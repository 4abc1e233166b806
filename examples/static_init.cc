// A C++ static that Python initializes: what pybind11's gil_safe_call_once is for.
//
// The obvious way deadlocks:
//
//   static const auto& decimal = *new ObjectRef(ImportDecimal());  // attached
//
// Thread A initializes the static and lets go of the GIL inside, as every import
// may. Thread B takes the GIL, comes to the static, and waits for A. A waits for
// the GIL, which B keeps.
//
// So nobody may wait for a static while holding the GIL: detach first, and attach
// again inside the initializer.
#include "examples/status_types.h"

#include <atomic>
#include <cstdio>
#include <thread>

#include "examples/embed.h"
#include "pyhold/object_ref.h"
#include "pyhold/pyhold.h"

namespace {

std::atomic<int> imports{0};

// Throws PythonRefused or PythonRaised.
pyhold::ObjectRef ImportDecimal(const pyhold::InterpreterView& view) {
  return pyhold::SafeCallIntoPython<Thrown>(view, [&] {
    ++imports;
    run_python("import time; time.sleep(0.2)");  // lets go of the GIL
    PyObject* module = PyImport_ImportModule("decimal");
    PyObject* type =
        module != nullptr ? PyObject_GetAttrString(module, "Decimal") : nullptr;
    Py_XDECREF(module);
    return pyhold::ObjectRef::Steal(view, type);
  });
}

// Attached: not needed. If the initializer throws, the next call tries again.
const pyhold::ObjectRef& Decimal(const pyhold::InterpreterView& view) {
  // The short way, for every call but the first ones: stays attached.
  static std::atomic<const pyhold::ObjectRef*> made{nullptr};
  const pyhold::ObjectRef* ready = made.load(std::memory_order_acquire);
  if (ready != nullptr) return *ready;

  pyhold::ThreadStateDetachGuard detached;  // does nothing if detached already
  static const auto* decimal = new pyhold::ObjectRef(ImportDecimal(view));
  made.store(decimal, std::memory_order_release);
  return *decimal;
}

}  // namespace

int main() {
  start_python();
  const pyhold::InterpreterView view = pyhold::InterpreterView::Current();
  std::thread detached([&] { expect(bool(Decimal(view)), "made"); });
  std::thread attached([&] {
    pyhold::ThreadStateGuard guard(view);
    expect(bool(Decimal(view)), "made");
  });
  expect(PyType_Check(Decimal(view).get()), "made on the main thread");
  Py_BEGIN_ALLOW_THREADS;
  detached.join();
  attached.join();
  Py_END_ALLOW_THREADS;
  expect(imports == 1, "one thread initialized it");
  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  std::puts("Three threads, one import, no deadlock.");
}
