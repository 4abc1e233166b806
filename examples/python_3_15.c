/* Code for Python 3.15, on 3.11 and newer.
 *
 * The functions' bodies between the lines are those of the documentation of
 * Python 3.15, unchanged: "Using the C API from foreign threads" and "Reusing a
 * thread state across repeated calls" in c-api/threads.rst, and
 * PyInterpreterGuard_FromCurrent() in c-api/interp-lifecycle.rst. On 3.15 they
 * call CPython; before, pyhold. One line of the program is not the
 * documentation's:
 */
#include "pyhold/pep788.h"

#include <pthread.h>

#include "examples/embed.h"

/* --- What the documentation leaves to the reader --- */

struct thread_data {
  PyInterpreterGuard *guard;
  PyInterpreterState *interp;
};

static PyObject *CallSomeFunction(void) {
  run_python("calls += 1");
  return NULL;
}

/* --- "Using the C API from foreign threads" --- */

static void use_from_foreign_thread(struct thread_data *thread_data) {
  PyObject *result;
  /* clang-format off */
   // The return value of PyInterpreterGuard_FromCurrent() from the
   // function that created this thread.
   PyInterpreterGuard *guard = thread_data->guard;

   // Create a new thread state for the interpreter.
   PyThreadStateToken *token = PyThreadState_Ensure(guard);
   if (token == NULL) {
      PyInterpreterGuard_Close(guard);
      return;
   }

   // We have a valid thread state -- perform Python actions here.
   result = CallSomeFunction();
   // Evaluate result or handle exceptions.

   // Release the thread state. No calls to the C API are allowed beyond this
   // point.
   PyThreadState_Release(token);
   PyInterpreterGuard_Close(guard);
  /* clang-format on */
  (void)result;
}

/* --- "Reusing a thread state across repeated calls" --- */

static void reuse_thread_state(struct thread_data *thread_data) {
  PyInterpreterState *interp = thread_data->interp;
  PyObject *result;
  /* clang-format off */
   PyThreadState *tstate = PyThreadState_New(interp);
  /* clang-format on */
  for (int i = 0; i < 10; ++i) {
    /* clang-format off */
   PyEval_RestoreThread(tstate);
   result = CallSomeFunction();  /* your Python C API calls go here */
   PyEval_SaveThread();
    /* clang-format on */
    /* An ensure on this thread uses the same state. */
    PyThreadStateToken *token = PyThreadState_Ensure(thread_data->guard);
    expect(token != NULL, "the thread is attached");
    expect(PyThreadState_Get() == tstate, "by the state that it has");
    PyThreadState_Release(token);
  }
  /* clang-format off */
   PyEval_RestoreThread(tstate);
   PyThreadState_Clear(tstate);
   PyThreadState_DeleteCurrent();
  /* clang-format on */
  PyInterpreterGuard_Close(thread_data->guard);
  (void)result;
}

/* --- PyInterpreterGuard_FromCurrent() --- */

static PyObject *without_finalization(PyObject *self, PyObject *unused) {
  (void)self, (void)unused;
  /* clang-format off */
      // Temporarily prevent finalization.
      PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
      if (guard == NULL) {
         // Finalization has already started or we're out of memory.
         return NULL;
      }

      Py_BEGIN_ALLOW_THREADS;
      // Do some critical processing here. For example, we can safely acquire
      // locks that might be acquired by the finalization thread.
      Py_END_ALLOW_THREADS;

      // Now that we're done with our critical processing, the interpreter is
      // allowed to finalize again.
      PyInterpreterGuard_Close(guard);
  /* clang-format on */
  Py_RETURN_NONE;
}

/* --- The program --- */

static PyMethodDef method = {"without_finalization", without_finalization,
                             METH_NOARGS, NULL};

static void *foreign(void *data) {
  use_from_foreign_thread(data);
  return NULL;
}
static void *reusing(void *data) {
  reuse_thread_state(data);
  return NULL;
}

int main(void) {
  start_python();
  run_python("calls = 0");
  struct thread_data data[2];
  pthread_t threads[2];
  for (int i = 0; i < 2; ++i) {
    data[i].guard = PyInterpreterGuard_FromCurrent();
    data[i].interp = PyInterpreterState_Get();
    expect(data[i].guard != NULL, "Python lives");
    expect(
        pthread_create(&threads[i], NULL, i ? reusing : foreign, &data[i]) == 0,
        "a thread starts");
  }
  PyObject *function = PyCFunction_New(&method, NULL);
  PyObject *result = PyObject_CallNoArgs(function);
  expect(result == Py_None, "finalization was prevented for a while");
  Py_DECREF(result);
  Py_DECREF(function);
  Py_BEGIN_ALLOW_THREADS;
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  Py_END_ALLOW_THREADS;
  run_python("assert calls == 11, calls");
  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  printf("11 calls on Python %s, by %s.\n", PY_VERSION,
         PYHOLD_PEP788_IS_NATIVE ? "CPython" : "pyhold");
}
