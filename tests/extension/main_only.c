/* An extension module whose threads know of no interpreter but the main one, and
 * that never makes a view while it is attached: "Implementing your own
 * PyGILState_Ensure" of PEP 788. */
#define PY_SSIZE_T_CLEAN
#include <pthread.h>

#include "pyhold/pep788.h"

static PyThreadStateToken *MyGILState_Ensure(void) {
  PyInterpreterView *view = PyInterpreterView_FromMain();
  if (view == NULL) return NULL;
  PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
  PyInterpreterView_Close(view);
  return token;
}
#define MyGILState_Release PyThreadState_Release

struct job {
  int left, granted;
};

static void *work(void *arg) {
  struct job *job = arg;
  for (; job->left > 0; --job->left) {
    PyThreadStateToken *token = MyGILState_Ensure();
    if (token == NULL) continue;
    if (PyInterpreterState_Get() == PyInterpreterState_Main() &&
        PyRun_SimpleString("sum([1, 2, 3])") == 0)
      ++job->granted;
    MyGILState_Release(token);
  }
  return NULL;
}

/* call(n): a native thread tries to call the main interpreter n times; how often
 * it could. */
static PyObject *call(PyObject *module, PyObject *args) {
  (void)module;
  struct job job = {0};
  if (!PyArg_ParseTuple(args, "i", &job.left)) return NULL;
  pthread_t thread;
  if (pthread_create(&thread, NULL, work, &job) != 0) return PyErr_NoMemory();
  Py_BEGIN_ALLOW_THREADS;
  pthread_join(thread, NULL);
  Py_END_ALLOW_THREADS;
  return PyLong_FromLong(job.granted);
}

static PyMethodDef methods[] = {{"call", call, METH_VARARGS, NULL}, {0}};

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT,
                                    .m_name = "main_only", .m_methods = methods,
                                    .m_slots = slots};

PyMODINIT_FUNC PyInit_main_only(void) { return PyModuleDef_Init(&module); }
