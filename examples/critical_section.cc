// A lock that must not be lost when Python ends.
//
// A thread takes a C++ mutex and calls Python in the middle. If it meets the
// end of the interpreter there with PyGILState_Ensure or Py_END_ALLOW_THREADS,
// CPython hangs or ends the thread, the mutex stays locked, and whoever wants
// it next (here: main, after Py_FinalizeEx) waits for ever.
//
// With pyhold the order is: hold the interpreter, take the lock, attach. What
// is inside finishes; what comes too late is refused before it has the lock.
// Attaching runs nobody else's destructors, so none can want the lock.
#include <cstdio>
#include <future>
#include <mutex>
#include <thread>

#include "examples/embed.h"
#include "pyhold/pyhold.h"

namespace {

std::mutex accounts;  // guards the next two
int from = 100, to = 0;

std::promise<void> native_is_inside, daemon_is_inside;

// Requires: detached, so that nobody waits for a lock while having the GIL.
// `ref` is a hold, and outlives the lock: nothing in here can be refused.
void Transfer(const pyhold::InterpreterRef& ref, std::promise<void>* inside) {
  std::lock_guard<std::mutex> lock(accounts);
  from -= 10;
  {
    pyhold::ThreadStateGuard guard(ref);
    expect(bool(guard), "a held interpreter can be attached");
    if (inside != nullptr) inside->set_value();
    run_python("the_end_has_begun.wait()");
  }
  to += 10;
}

// A native thread comes in with a view, and may be refused.
pyhold_status TransferOnNativeThread(const pyhold::InterpreterView& view,
                                     std::promise<void>* inside) {
  pyhold::InterpreterRef ref = view.Hold();
  if (!ref) return ref.status();
  Transfer(ref, inside);
  return PYHOLD_OK;
}

// A Python thread comes in attached. ThreadStateDetachGuard in place of
// Py_BEGIN_ALLOW_THREADS: the way back to Python stays open.
PyObject* TransferFromPython(PyObject*, PyObject*) PYHOLD_REQUIRES_ATTACHED {
  pyhold::InterpreterRef ref = pyhold::InterpreterRef::Current();
  if (!ref) {
    PyErr_SetString(PyExc_RuntimeError, pyhold_status_message(ref.status()));
    return nullptr;
  }
  {
    pyhold::ThreadStateDetachGuard detached;
    expect(bool(detached), "a holder can detach");
    daemon_is_inside.set_value();
    Transfer(ref, nullptr);
  }
  Py_RETURN_NONE;
}

PyMethodDef transfer_method = {"transfer", TransferFromPython, METH_NOARGS,
                               nullptr};

}  // namespace

int main() {
  start_python();
  auto view = pyhold::InterpreterView::Current();

  // Both threads stay in the middle of it until Py_FinalizeEx is under way.
  run_python(
      "import atexit, threading\n"
      "the_end_has_begun = threading.Event()\n"
      "atexit.register(the_end_has_begun.set)\n");
  std::thread native([&] {
    expect(TransferOnNativeThread(view, &native_is_inside) == PYHOLD_OK,
           "the native thread got in");
  });
  Py_BEGIN_ALLOW_THREADS;
  native_is_inside.get_future().wait();
  Py_END_ALLOW_THREADS;
  PyObject* globals = PyModule_GetDict(PyImport_AddModule("__main__"));
  PyObject* transfer = PyCFunction_New(&transfer_method, nullptr);
  PyDict_SetItemString(globals, "transfer", transfer);
  Py_DECREF(transfer);
  run_python("threading.Thread(target=transfer, daemon=True).start()");
  Py_BEGIN_ALLOW_THREADS;
  daemon_is_inside.get_future().wait();
  Py_END_ALLOW_THREADS;
  expect(Py_FinalizeEx() == 0, "Python ends without an error");

  std::unique_lock<std::mutex> lock(accounts, std::try_to_lock);
  expect(lock.owns_lock(), "the lock is free");
  expect(from == 80 && to == 20, "both transfers were finished");
  lock.unlock();
  native.join();
  pyhold_status late = TransferOnNativeThread(view, nullptr);
  expect(late == PYHOLD_EFINALIZING && from + to == 100, "one more is refused");
  std::printf(
      "Two transfers under way when Python ended were finished, the lock is "
      "free;\nthe next one was refused: %s.\n",
      pyhold_status_name(late));
}
