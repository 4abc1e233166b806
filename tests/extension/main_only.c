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
  PyObject *callback;
  int left, granted;
};

static void *work(void *arg) {
  struct job *job = arg;
  for (; job->left > 0; --job->left) {
    PyThreadStateToken *token = MyGILState_Ensure();
    if (token == NULL) continue;
    PyObject *result = PyObject_CallNoArgs(job->callback);
    if (result != NULL)
      ++job->granted;
    else
      PyErr_Print();
    Py_XDECREF(result);
    MyGILState_Release(token);
  }
  return NULL;
}

/* call(callback, n): a native thread tries to call callback() n times; how often
 * it could. */
static PyObject *call(PyObject *module, PyObject *args) {
  (void)module;
  struct job job = {0};
  if (!PyArg_ParseTuple(args, "Oi", &job.callback, &job.left)) return NULL;
  pthread_t thread;
  if (pthread_create(&thread, NULL, work, &job) != 0) return PyErr_NoMemory();
  Py_BEGIN_ALLOW_THREADS;
  pthread_join(thread, NULL);
  Py_END_ALLOW_THREADS;
  return PyLong_FromLong(job.granted);
}

static PyMethodDef methods[] = {{"call", call, METH_VARARGS, NULL}, {0}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "main_only", .m_methods = methods};

PyMODINIT_FUNC PyInit_main_only(void) { return PyModuleDef_Init(&module); }
