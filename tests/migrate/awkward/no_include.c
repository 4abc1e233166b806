// clang-format off
#ifdef WITH_PYTHON
#include <Python.h>

void callback(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}
#endif
