// clang-format off
#include <Python.h>

static inline void callback(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}
