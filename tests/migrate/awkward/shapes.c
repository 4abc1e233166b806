/* Pairs that are not the plain statements of one plain function. */
// clang-format off
#include <Python.h>
#include <stdbool.h>

struct job {
  PyGILState_STATE gil;
  PyObject *callback;
};

void two_pairs(void) {
  PyGILState_STATE a = PyGILState_Ensure();
  PyRun_SimpleString("one()");
  PyGILState_Release(a);
  PyGILState_STATE b = PyGILState_Ensure();
  PyRun_SimpleString("two()");
  PyGILState_Release(b);
}

void nested_pairs(void) {
  PyGILState_STATE outer = PyGILState_Ensure();
  PyGILState_STATE inner = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(inner);
  PyGILState_Release(outer);
}

void nested_blocks(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyGILState_Release(gil);
  }
  PyGILState_Release(gil);
}

void across_ifdef(void) {
#ifdef WITH_THREADS
  PyGILState_STATE gil = PyGILState_Ensure();
#endif
  PyRun_SimpleString("work()");
#ifdef WITH_THREADS
  PyGILState_Release(gil);
#endif
}

void ifdef_between(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
#ifdef VERBOSE
  PyRun_SimpleString("print('working')");
#endif
  PyGILState_Release(gil);
}

#define WITH_GIL(code)                            \
  do {                                            \
    PyGILState_STATE gil_ = PyGILState_Ensure();  \
    code;                                         \
    PyGILState_Release(gil_);                     \
  } while (0)

#define ATTACHED PyGILState_Check()
# define ENDING (Py_IsFinalizing())

void through_a_macro(void) {
  WITH_GIL(PyRun_SimpleString("work()"));
}

void conditional(bool needed) {
  PyGILState_STATE gil;
  if (needed) gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  if (needed) PyGILState_Release(gil);
}

void release_is_conditional(bool needed) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  if (needed)
    PyGILState_Release(gil);
}

void release_in_an_inner_block(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  { PyGILState_Release(gil); }
}

void chosen(bool needed) {
  PyGILState_STATE gil = needed ? PyGILState_Ensure() : PyGILState_UNLOCKED;
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void in_a_struct(struct job *job) {
  job->gil = PyGILState_Ensure();
  PyObject_CallNoArgs(job->callback);
  PyGILState_Release(job->gil);
}

void begin_job(struct job *job) {
  job->gil = PyGILState_Ensure();
}

void end_job(struct job *job) {
  PyGILState_Release(job->gil);
}

static PyGILState_STATE shared;

void in_a_global(void) {
  shared = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(shared);
}

void in_a_static(void) {
  static PyGILState_STATE gil;
  gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void together_with_others(void) {
  PyGILState_STATE a = PyGILState_Ensure(), b = PyGILState_UNLOCKED;
  PyRun_SimpleString("work()");
  PyGILState_Release(a);
  (void)b;
}

void declared_with_others(void) {
  PyGILState_STATE a, b;
  a = PyGILState_Ensure();
  (void)b;
  PyGILState_Release(a);
}

void declared_far_away(void) {
  PyGILState_STATE gil;
  int failed;
  gil = PyGILState_Ensure();
  failed = PyRun_SimpleString("work()");
  (void)failed;
  PyGILState_Release(gil);
}

void looked_at(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  if (gil == PyGILState_UNLOCKED) PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void dropped(void) {
  PyGILState_Ensure();
  PyRun_SimpleString("work()");
}

void at_once(void) {
  PyGILState_Release(PyGILState_Ensure());
}

void more_afterwards(bool *done) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
  *done = true;
}

int not_void(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  int result = PyRun_SimpleString("work()");
  PyGILState_Release(gil);
  return result;
}

void *pointer_to_void(void *arg) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
  return NULL;
}

main() {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void old_style(what) int what; {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

#ifdef RETURNS
int
#else
void
#endif
type_in_branches(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void (*returns_a_function(int which))(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void CALLBACK_NAME(work) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

EXPORT(void) exported(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

POINTER_TO(int) void macro_before_it(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

#define nothing int

nothing hidden_type(void) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void in_a_loop(int n) {
  for (int i = 0; i < n; ++i) {
    PyGILState_STATE gil = PyGILState_Ensure();
    if (PyRun_SimpleString("work()")) break;
    PyGILState_Release(gil);
  }
}

void as_a_loop(void) {
  int once = 1;
  PyGILState_STATE gil;
  for (gil = PyGILState_Ensure(); once; once = 0, PyGILState_Release(gil))
    PyRun_SimpleString("work()");
}

void comment_in_it(void) {
  PyGILState_STATE gil = /* any thread */ PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
}

void beside_the_new(PyInterpreterView *view) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
  PyThreadState_Release(token);
  PyGILState_Release(gil);
}

PyGILState_STATE PyGILState_Ensure(void);
PyAPI_FUNC(void) PyGILState_Release(PyGILState_STATE);
PyGILState_STATE (*ensure)(void) = PyGILState_Ensure;
void (*release)(PyGILState_STATE) = &PyGILState_Release;

void through_pointers(struct api *api) {
  PyGILState_STATE gil = api->PyGILState_Ensure();
  PyRun_SimpleString("work()");
  api->PyGILState_Release(gil);
}

void looks_first(void) {
  if (Py_IsFinalizing() || !Py_IsInitialized()) return;
  if (PyGILState_Check()) return;
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  PyGILState_Release(gil);
  gil = 0;
}

void only_asks(void) {
  if (!Py_IsInitialized()) Py_Initialize();
}

void locked_before(pthread_mutex_t *mutex) {
  pthread_mutex_lock(mutex);
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  pthread_mutex_unlock(mutex);
  PyGILState_Release(gil);
}

void taken_before(void *arg) {
  char *copy = strdup(arg);
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString(copy);
  free(copy);
  PyGILState_Release(gil);
}

void tried_before(pthread_mutex_t *mutex) {
  if (pthread_mutex_trylock(mutex)) return;
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  pthread_mutex_unlock(mutex);
  PyGILState_Release(gil);
}

void called_through_a_pointer_before(struct lock *lock) {
  (*lock->take)(lock);
  PyGILState_STATE gil = PyGILState_Ensure();
  lock->give(lock);
  PyGILState_Release(gil);
}

void member_is_set_before(struct job *job) {
  job->busy = 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  job->busy = 0;
  PyGILState_Release(gil);
}

void global_is_set_before(void) {
  busy = 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  busy = 0;
  PyGILState_Release(gil);
}

void set_and_set_back(void) {
  int was = busy;
  busy = 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  PyRun_SimpleString("work()");
  busy = was;
  PyGILState_Release(gil);
}

void added_before(struct job *job) {
  int n = job->n += 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  job->n = n - 1;
  PyGILState_Release(gil);
}

void counted_before(void) {
  int n = ++depth;
  PyGILState_STATE gil = PyGILState_Ensure();
  depth = n - 1;
  PyGILState_Release(gil);
}

void set_on_the_way_before(struct job *job) {
  int n = job->busy = 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  job->busy = n - 1;
  PyGILState_Release(gil);
}

void branch_before(struct job *job, int n) {
  if (n) job->busy = 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  job->busy = 0;
  PyGILState_Release(gil);
}

void else_before(int n) {
  if (n == 0) return;
  else busy = 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  busy = 0;
  PyGILState_Release(gil);
}

void attribute_before(struct job *job) {
  must_check take(job);
  PyGILState_STATE gil = PyGILState_Ensure();
  give(job);
  PyGILState_Release(gil);
}

void macro_before(void) {
  LOCK_ALL
  int n = 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  unlock_all(n);
  PyGILState_Release(gil);
}

#define locked_int int locked = lock(),

void macro_in_small_letters_before(void) {
  locked_int n = 1;
  PyGILState_STATE gil = PyGILState_Ensure();
  unlock(locked);
  PyGILState_Release(gil);
}
