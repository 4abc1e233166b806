#include "tests/support/python.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

void StartPython(bool with_signal_handlers) {
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.install_signal_handlers = with_signal_handlers;
  if (const char* path = getenv("PYTHON_BIN_PATH"))
    PyConfig_SetBytesString(&config, &config.program_name, path);
  PyStatus status = Py_InitializeFromConfig(&config);
  if (PyStatus_Exception(status)) Py_ExitStatusException(status);
  PyConfig_Clear(&config);
}

SubInterpreter::SubInterpreter(Gil gil) : before_(PyThreadState_Get()) {
#if PY_VERSION_HEX >= 0x030C0000
  PyInterpreterConfig config{};
  config.allow_threads = 1;
#ifdef Py_GIL_DISABLED  // must be
  config.check_multi_interp_extensions = 1;
#else
  config.check_multi_interp_extensions = gil == kOwn;
#endif
  config.use_main_obmalloc = gil == kShared;
  config.allow_fork = gil == kShared;
  config.allow_exec = gil == kShared;
  config.allow_daemon_threads = gil == kShared;
  config.gil = gil == kOwn ? PyInterpreterConfig_OWN_GIL
                           : PyInterpreterConfig_SHARED_GIL;
  PyStatus status = Py_NewInterpreterFromConfig(&state_, &config);
  if (PyStatus_Exception(status)) Py_ExitStatusException(status);
#else
  (void)gil;
  state_ = Py_NewInterpreter();
  if (state_ == nullptr) abort();
#endif
}

void SubInterpreter::End() {
  Py_EndInterpreter(state_);
#if PY_VERSION_HEX >= 0x030C0000
  PyEval_RestoreThread(before_);
#else
  PyThreadState_Swap(before_);  // it kept the one GIL
#endif
}

PyThreadState* Attached() {
#if PY_VERSION_HEX >= 0x030D0000
  return PyThreadState_GetUnchecked();
#else
  return _PyThreadState_UncheckedGet();
#endif
}

int CountStates() {
  int count = 0;
  PyThreadState* state = PyInterpreterState_ThreadHead(Attached()->interp);
  for (; state != nullptr; state = PyThreadState_Next(state)) ++count;
  return count;
}

void AwaitOneState() {
  auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (CountStates() > 1) {
    if (std::chrono::steady_clock::now() > until) {
      fprintf(stderr, "%d thread states are left\n", CountStates());
      abort();
    }
    Py_BEGIN_ALLOW_THREADS;
    std::this_thread::yield();
    Py_END_ALLOW_THREADS;
  }
}

void Exec(const char* code) {
  if (PyRun_SimpleString(code) != 0) {
    fprintf(stderr, "Python code failed: %s\n", code);
    abort();
  }
}

long Eval(const char* expression) {
  PyObject* dict = PyModule_GetDict(PyImport_AddModule("__main__"));
  PyObject* value = PyRun_String(expression, Py_eval_input, dict, dict);
  if (value == nullptr) {
    PyErr_Print();
    abort();
  }
  long result = PyLong_AsLong(value);
  Py_DECREF(value);
  return result;
}
