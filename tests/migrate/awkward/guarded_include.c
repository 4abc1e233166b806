// clang-format off
#include <stdio.h>
#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#endif

void callback(PyObject *callable) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyObject_CallFunction(callable, "s#", "text", (Py_ssize_t)4);
  PyGILState_Release(gil);
}
