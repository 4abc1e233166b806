/* The examples of PEP 788's first draft (April 2025) in its names, see
 * support/pep788_draft.h, and in the shape that the draft's review quotes
 * (github.com/python/peps, pull requests 4385 and 4400). What they call of
 * CPython's private thread functions is given here by pthread's; a misprinted
 * variable of the draft is put right. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <assert.h>
#include <pthread.h>

#include "examples/embed.h"
#include "tests/support/pep788_draft.h"

/* --- What the draft leaves to the reader --- */

typedef pthread_t handle_type;
typedef unsigned long ident_type;
#define PyThread_handle_t handle_type
#define PyThread_ident_t ident_type
#define PyThread_start_joinable_thread start_thread
#define PyThread_join_thread(handle) pthread_join(handle, NULL)

struct start {
  int (*function)(void *);
  void *arg;
};

static void *run(void *arg) {
  struct start start = *(struct start *)arg;
  free(arg);
  (void)start.function(start.arg);
  return NULL;
}

static int start_thread(int (*function)(void *), void *arg, ident_type *ident,
                        handle_type *handle) {
  struct start *start = malloc(sizeof *start);
  *start = (struct start){function, arg};
  *ident = 0;
  return pthread_create(handle, NULL, run, start) == 0 ? 0 : -1;
}

static pthread_mutex_t global_lock = PTHREAD_MUTEX_INITIALIZER;
static void acquire_some_lock(void) { pthread_mutex_lock(&global_lock); }
static void release_some_lock(void) { pthread_mutex_unlock(&global_lock); }

/* The last callback that was registered; fired by main(), on a thread. */
static int (*callback)(void *);
static void *callback_arg;
static void register_callback(int (*function)(void *), void *arg) {
  callback = function;
  callback_arg = arg;
}

/* clang-format off */

/* --- A lock in a Python method --- */

static PyObject *
my_critical_operation(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyInterpreterState *interp = PyInterpreterState_Hold();
    /* Temporarily make this thread non-daemon */
    if (PyThreadState_Ensure(interp) < 0) {
        PyErr_SetString(PyExc_RuntimeError, "interpreter is shutting down");
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS;
    acquire_some_lock();
    /* Do something while holding the lock */
    release_some_lock();
    Py_END_ALLOW_THREADS;

    PyThreadState_Release();
    Py_RETURN_NONE;
}

/* --- Instead of PyGILState --- */

static int
thread_func(void *arg)
{
    PyInterpreterState *interp = (PyInterpreterState *)arg;
    if (PyThreadState_Ensure(interp) < 0) {
        fputs("Cannot talk to Python", stderr);
        return -1;
    }
    if (PyRun_SimpleString("print(42)") < 0) {
        PyErr_Print();
    }
    PyThreadState_Release();
    return 0;
}

static PyObject *
my_method(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyThread_handle_t handle;
    PyThread_ident_t ident;

    PyInterpreterState *interp = PyInterpreterState_Hold();
    if (PyThread_start_joinable_thread(thread_func, interp, &ident, &handle) < 0) {
        PyInterpreterState_Release(interp);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    PyThread_join_thread(handle);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* --- A daemon thread --- */

static int
daemon_func(void *arg)
{
    PyInterpreterState *interp = (PyInterpreterState *)arg;
    if (PyThreadState_Ensure(interp) < 0) {
        fputs("Cannot talk to Python", stderr);
        return -1;
    }
    (void)PyThreadState_SetDaemon(1);
    if (PyRun_SimpleString("print(42)") < 0) {
        PyErr_Print();
    }
    PyThreadState_Release();
    return 0;
}

static PyObject *
start_daemon(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyThread_handle_t handle;
    PyThread_ident_t ident;

    PyInterpreterState *interp = PyInterpreterState_Hold();
    if (PyThread_start_joinable_thread(daemon_func, interp, &ident, &handle) < 0) {
        PyInterpreterState_Release(interp);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    PyThread_join_thread(handle);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* --- An asynchronous callback --- */

typedef struct {
    int64_t interp_id;
} pyrun_t;

static int
async_callback(void *arg)
{
    pyrun_t *data = (pyrun_t *)arg;
    PyInterpreterState *interp = PyInterpreterState_Lookup(data->interp_id);
    PyMem_RawFree(data);
    if (interp == NULL) {
        fputs("Python has shut down", stderr);
        return -1;
    }
    if (PyThreadState_Ensure(interp) < 0) {
        fputs("Cannot talk to Python", stderr);
        return -1;
    }
    if (PyRun_SimpleString("print(42)") < 0) {
        PyErr_Print();
    }
    PyThreadState_Release();
    return 0;
}

static PyObject *
setup_callback(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    pyrun_t *data = PyMem_RawMalloc(sizeof(pyrun_t));
    if (data == NULL) {
        return PyErr_NoMemory();
    }
    data->interp_id = PyInterpreterState_GetID(PyInterpreterState_Get());
    register_callback(async_callback, data);
    Py_RETURN_NONE;
}

/* clang-format on */

static void *fire(void *result) {
  *(int *)result = callback(callback_arg);
  return NULL;
}

static int fire_on_a_thread(void) {
  int result;
  pthread_t thread;
  expect(pthread_create(&thread, NULL, fire, &result) == 0, "a thread starts");
  pthread_join(thread, NULL);
  return result;
}

static void call(PyCFunction function) {
  PyObject *result = function(NULL, NULL);
  expect(result == Py_None, "the method returns None");
  Py_DECREF(result);
}

int main(void) {
  start_python();
  run_python(
      "said = []\n"
      "def print(x): said.append(x)\n");
  call(my_critical_operation);
  call(my_method);
  call(start_daemon);
  call(setup_callback);
  int result;
  Py_BEGIN_ALLOW_THREADS;
  result = fire_on_a_thread();
  Py_END_ALLOW_THREADS;
  expect(result == 0, "the callback calls Python");
  run_python("assert said == [42] * 3, said");
  call(setup_callback);
  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  expect(fire_on_a_thread() == -1, "the callback is refused after the end");
  puts("\nok");
}
