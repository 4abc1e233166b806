/* Ways to leave between Ensure and Release. */
// clang-format off
#include <Python.h>
#include <setjmp.h>
#include <pthread.h>

void goto_cleanup(PyObject *callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyObject *result = PyObject_CallNoArgs(callback);
  if (result == NULL) goto cleanup;
  Py_DECREF(result);
cleanup:
  PyGILState_Release(gil);
}

void early_return(PyObject *callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  if (callback == NULL) return;
  PyObject_CallNoArgs(callback);
  PyGILState_Release(gil);
}

void return_in_a_switch(int what) {
  PyGILState_STATE gil = PyGILState_Ensure();
  switch (what) {
    case 1:
      break;
    default:
      return;
  }
  PyGILState_Release(gil);
}

void released_in_branches(PyObject *callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  if (callback == NULL) {
    PyGILState_Release(gil);
    return;
  }
  PyGILState_Release(gil);
}

void jumps_far(jmp_buf *where) {
  PyGILState_STATE gil = PyGILState_Ensure();
  longjmp(*where, 1);
  PyGILState_Release(gil);
}

void ends_the_thread(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  pthread_exit(NULL);
  PyGILState_Release(gil);
}

void jumps_back(void) {
again:;
  PyGILState_STATE gil = PyGILState_Ensure();
  int failed = PyRun_SimpleString("work()");
  PyGILState_Release(gil);
  if (failed) goto again;
}

void ends_python(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  Py_FinalizeEx();
  PyGILState_Release(gil);
}

#define RETURN_IF_NULL(x) if ((x) == NULL) return

void macro_leaves(PyObject *callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  RETURN_IF_NULL(callback);
  PyGILState_Release(gil);
}

#define leave_if(x) if (x) return

void macro_in_small_letters(PyObject *callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  leave_if(callback == NULL);
  PyGILState_Release(gil);
}

void macro_of_another_file(PyObject *callback) {
  PyGILState_STATE gil = PyGILState_Ensure();
  CHECK_CALLABLE(callback);
  PyGILState_Release(gil);
}

void visits(visitproc visit, void *arg, PyObject *o) {
  PyGILState_STATE gil = PyGILState_Ensure();
  Py_VISIT(o);
  PyGILState_Release(gil);
}

void lets_go_only(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyEval_SaveThread();
  PyGILState_Release(gil);
}

void takes_before_it_lets_go(PyThreadState *s) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyEval_RestoreThread(s);
  PyEval_SaveThread();
  PyGILState_Release(gil);
}
