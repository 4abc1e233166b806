// clang-format off
#include <Python.h>

/* PyGILState_STATE gil = PyGILState_Ensure(); */
// PyGILState_Release(gil); and it goes on \
   if (Py_IsFinalizing()) PyGILState_Check();
static const char *text = "PyGILState_STATE gil = PyGILState_Ensure(); \" }{ \
PyGILState_Release(gil);";
static const char quote = '"', other = '\'';  // PyGILState_Ensure()
#if 0
don't compile this: PyGILState_STATE gil = PyGILState_Ensure();
#if 1
{ PyGILState_Release(gil);
#endif
#else
static int one = 1;  /* PyGILState_Ensure() */
#endif
#ifdef NEVER
#error don't: PyGILState_Ensure() {
#endif
