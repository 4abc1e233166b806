// An extension module whose native threads call Python until they are refused.
// Built twice, as probe_one and probe_two, each with its own copy of pyhold.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <thread>

#include "pyhold/pyhold.h"

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)

namespace {

struct Tally {
  std::list<std::thread> threads;
  std::atomic<int> started{0}, refused{0}, failed{0};
  std::atomic<long> calls{0};
  const pid_t process = getpid();
};

// Outlives the interpreter: the threads run on when the script has ended. A child
// of fork() has none of its parent's.
Tally* all = new Tally;
Tally& Own() {
  if (all->process != getpid()) all = new Tally;
  return *all;
}

// Runs at exit(), after Python has finalized.
void JoinAll() {
  Tally& tally = Own();
  for (auto& thread : tally.threads) thread.join();
  printf("%s: %d threads, %d refused, %d failed, %s\n", STRING(MODULE),
         tally.started.load(), tally.refused.load(), tally.failed.load(),
         tally.calls > 0 ? "some calls" : "no calls");
  fflush(stdout);
}

struct State {
  pyhold::InterpreterView view;
};

State* GetState(PyObject* module) {
  return static_cast<State*>(PyModule_GetState(module));
}

// start(callback, n): n threads call callback() for ever.
PyObject* Start(PyObject* module, PyObject* args) {
  PyObject* callback;
  int n;
  if (!PyArg_ParseTuple(args, "Oi", &callback, &n)) return nullptr;
  pyhold::InterpreterView view = GetState(module)->view;
  Tally& tally = Own();
  for (int i = 0; i < n; ++i) {
    Py_INCREF(callback);  // each thread's, for ever
    ++tally.started;
    tally.threads.emplace_back([&tally, view, callback] {
      for (;;) {
        pyhold::ThreadStateGuard guard(view);
        if (guard.status() == PYHOLD_EFINALIZING) break;
        PyObject* result = guard ? PyObject_CallNoArgs(callback) : nullptr;
        if (result == nullptr) {
          if (guard) PyErr_Print();
          ++tally.failed;
          return;
        }
        Py_DECREF(result);
        ++tally.calls;
      }
      ++tally.refused;
    });
  }
  Py_RETURN_NONE;
}

// await_calls(n): returns when n more calls were made.
PyObject* AwaitCalls(PyObject*, PyObject* arg) {
  long n = PyLong_AsLong(arg);
  if (n == -1 && PyErr_Occurred()) return nullptr;
  {
    Tally& tally = Own();
    pyhold::ThreadStateDetachGuard detached;
    long enough = tally.calls + n;
    while (tally.calls < enough && tally.failed == 0) std::this_thread::yield();
  }
  Py_RETURN_NONE;
}

// is_open(): whether the gate of this copy of pyhold is.
PyObject* IsOpen(PyObject* module, PyObject*) {
  return PyBool_FromLong(bool(GetState(module)->view.Hold()));
}

// nest(callback): calls it in a guard, attached or, the second time, detached
// around it. How many of the two were granted.
PyObject* Nest(PyObject* module, PyObject* callback) {
  const pyhold::InterpreterView view = GetState(module)->view;
  long granted = 0;
  auto call = [&] {
    pyhold::ThreadStateGuard guard(view);
    if (!guard) return;
    PyObject* result = PyObject_CallNoArgs(callback);
    if (result == nullptr) PyErr_Print();
    Py_XDECREF(result);
    ++granted;
  };
  call();
  {
    pyhold::ThreadStateDetachGuard detached;
    call();
  }
  return PyLong_FromLong(granted);
}

// interpreter_id(): of the interpreter that imported the module.
PyObject* InterpreterId(PyObject* module, PyObject*) {
  return PyLong_FromLongLong(GetState(module)->view.id());
}

PyMethodDef methods[] = {
    {"start", Start, METH_VARARGS, nullptr},
    {"await_calls", AwaitCalls, METH_O, nullptr},
    {"is_open", IsOpen, METH_NOARGS, nullptr},
    {"nest", Nest, METH_O, nullptr},
    {"interpreter_id", InterpreterId, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

int Exec(PyObject* module) {
  static std::atomic<bool> once{false};
  if (!once.exchange(true)) atexit(JoinAll);
  State* state = new (GetState(module)) State;
  state->view = pyhold::InterpreterView::Current();
  if (state->view) return 0;
  PyErr_SetString(PyExc_ImportError,
                  pyhold_status_message(state->view.status()));
  return -1;
}

void Free(void* module) {
  State* state = GetState(static_cast<PyObject*>(module));
  if (state != nullptr) state->~State();
}

PyModuleDef_Slot slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(Exec)},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          STRING(MODULE),
                          nullptr,
                          sizeof(State),
                          methods,
                          slots,
                          nullptr,
                          nullptr,
                          Free};

}  // namespace

PyMODINIT_FUNC CONCAT(PyInit_, MODULE)(void) {
  return PyModuleDef_Init(&definition);
}
