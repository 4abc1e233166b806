// clang-format off
#include <stdio.h>
#ifdef HAVE_PYTHON
#define PY_SSIZE_T_CLEAN
#include <Python.h>

void callback(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}
#endif
