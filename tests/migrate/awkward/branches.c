/* Each branch of #if opens the function: nothing is sure here any more. */
// clang-format off
#include <Python.h>

#ifdef WITH_ARGUMENT
int callback(int value) {
#else
void callback(void) {
#endif
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void after_it(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}
