// clang-format off
#include <Python.h>

void callback(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  if (PyRun_SimpleString("work()")) {
  PyGILState_Release(gil);
}
