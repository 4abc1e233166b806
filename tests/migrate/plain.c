/* Plain pairs in C; as plain.cc. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "pyhold/pep788.h"

static PyInterpreterView *view;

static void expect(int it_is_so, const char *what) {
  if (it_is_so) return;
  fprintf(stderr, "This did not hold: %s\n", what);
  _Exit(1);
}

static void simple(const char *code) {
  PyGILState_STATE gil = PyGILState_Ensure();
  expect(PyRun_SimpleString(code) == 0, code);
  PyGILState_Release(gil);
}

static void with_locals(const char *code) {
  PyGILState_STATE gil;
  gil = PyGILState_Ensure();
  PyObject *dict = PyModule_GetDict(PyImport_AddModule("__main__"));
  PyObject *result = PyRun_String(code, Py_single_input, dict, dict);
  if (result == NULL) {
    PyErr_Print();
  } else {
    Py_DECREF(result);
  }
  Py_BEGIN_ALLOW_THREADS
  sched_yield();
  Py_END_ALLOW_THREADS
  PyGILState_Release(gil);
  return;
}

/* clang-format off */
static void in_one_line(const char *code) { PyGILState_STATE gil = PyGILState_Ensure(); expect(PyRun_SimpleString(code) == 0, code); PyGILState_Release(gil); }
/* clang-format on */

static void *run(void *arg) {
  (void)arg;
  simple("calls += 1");
  with_locals("calls += 1");
  in_one_line("calls += 1");
  return NULL;
}

static void call_all(void) {
  pthread_t thread;
  expect(pthread_create(&thread, NULL, run, NULL) == 0, "a thread starts");
  pthread_join(thread, NULL);
}

static void start_python(void) {
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  const char *path = getenv("PYTHON_BIN_PATH");
  if (path != NULL)
    PyConfig_SetBytesString(&config, &config.program_name, path);
  PyStatus status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  expect(!PyStatus_Exception(status), "Python starts");
}

int main(void) {
  start_python();
  view = PyInterpreterView_FromCurrent();
  expect(view != NULL, "a view is made");
  expect(PyRun_SimpleString("calls = 0") == 0, "Python works");
  Py_BEGIN_ALLOW_THREADS;
  call_all();
  Py_END_ALLOW_THREADS;
  expect(PyRun_SimpleString("assert calls == 3") == 0, "three calls");
  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  call_all(); /* refused: it comes back, and has called nothing */
  PyInterpreterView_Close(view);
}
