/* For Cython modules: every `with gil` goes through pyhold. Copy it as it is.
 *
 *     cdef extern from "pyhold_gilstate.h":
 *         ctypedef enum pyhold_status:
 *             PYHOLD_OK
 *         int pyhold_gilstate_import() except -1
 *         pyhold_status pyhold_gilstate_ensure() nogil
 *         void pyhold_thread_release() nogil
 *
 *     pyhold_gilstate_import()   # in the module's first lines
 *
 * Cython writes PyGILState_Ensure() and PyGILState_Release() for `with gil`, be
 * it a block or in a signature, and around what a nogil function does about an
 * exception. It includes this header before all of them, and the macros at its
 * end make them pyhold's. `with nogil` needs nothing: what it lets go of,
 * pyhold finds. `from cpython.pystate cimport PyGILState_Ensure` is redirected,
 * too.
 *
 * In a module that several interpreters import, `with gil` goes to the interpreter
 * that its thread came from. A native thread came from none, and goes to the one that
 * imported the module first: docs/cython.md says how to send it elsewhere.
 *
 * But `with gil` cannot fail, and pyhold may refuse. So a function that native
 * threads call asks first, and has an answer; what it calls then nests, and is
 * never refused:
 *
 *     cdef int on_event(void* context) noexcept nogil:
 *         if pyhold_gilstate_ensure() != PYHOLD_OK:
 *             return REFUSED          # the thread is as it was
 *         call_python(context)        # noexcept: nothing may jump over...
 *         pyhold_thread_release()     # ...the release
 *         return DONE
 *
 *     cdef void call_python(void* context) noexcept with gil:
 *         (<object> context)()
 *
 * A `with gil` that is refused without having asked:
 *   - Python finalizes: its thread is stopped for ever, after a line on stderr.
 *     CPython from 3.13.8 does so silently (before, it ends the thread, in the
 *     middle of its C++ frames). A process that does not join the thread ends
 *     as it would have, status and output included; abort() would take that
 *     from every program whose only fault is a late callback. One that does
 *     join it hangs: then the line says why.
 *   - Out of memory, or no import above: the process is ended, as
 *     PyGILState_Ensure() ends it.
 *   - The thread that finalizes Python is never stopped. It runs destructors
 *     and atexit callbacks after the gate has closed, and has what PyGILState
 *     gives it; once that is gone, the process is ended.
 * For another choice, define PYHOLD_GILSTATE_REFUSED(status) before this header;
 * it must not return. */
#ifndef PYHOLD_GILSTATE_H_
#define PYHOLD_GILSTATE_H_

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "pyhold/core.h"

/* All static: a module is one file, and each has its own. */

/* The interpreter that imported the module first; never freed. */
static pyhold_view *pyhold_gilstate_view;
/* Whether others have imported it, too. */
static int pyhold_gilstate_several;
/* The numbers of the interpreters that this thread finalizes, or finalized last: the
 * main one's, whose end ends all others, too; another's. */
static __thread int64_t pyhold_gilstate_closed[2] = {-1, -1};

static inline pyhold_view *pyhold_gilstate_get(void) {
  /* acquire: pairs with the exchange in pyhold_gilstate_import(). */
  return __atomic_load_n(&pyhold_gilstate_view, __ATOMIC_ACQUIRE);
}

/* An interpreter's gate closes: this is the thread that finalizes it. */
static inline void pyhold_gilstate_on_close(void *id) {
  pyhold_gilstate_closed[id != NULL] = (intptr_t)id;
}

static inline bool pyhold_gilstate_has_closed(int64_t id) {
  return pyhold_gilstate_closed[id != 0] == id;
}

/* Make this interpreter known. Attached: required. 0; or -1 with an exception set. */
static inline int pyhold_gilstate_import(void) {
  pyhold_view *view, *first = pyhold_gilstate_get();
  if (first != NULL && pyhold_view_is_attached(first)) return 0; /* reloaded */
  pyhold_status status = pyhold_view_current(&view);
  if (status == PYHOLD_OK) {
    status = pyhold_on_close(view, pyhold_gilstate_on_close,
                             (void *)(intptr_t)pyhold_view_id(view));
    if (status != PYHOLD_OK) pyhold_view_free(view);
  }
  if (status != PYHOLD_OK) {
    PyErr_Format(PyExc_ImportError, "%s (%s)", pyhold_status_name(status),
                 pyhold_status_message(status));
    return -1;
  }
  /* A first one that has ended may be in use: it is left, and replaced. */
  if ((first == NULL || pyhold_view_is_closed(first)) &&
      __atomic_compare_exchange_n(&pyhold_gilstate_view, &first, view, 0,
                                  __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
    return 0;
  pyhold_view_free(view);
  /* relaxed: only threads that came from this interpreter need it, and those come
   * after the import. */
  __atomic_store_n(&pyhold_gilstate_several, 1, __ATOMIC_RELAXED);
  return 0;
}

/* As pyhold_gilstate_ensure(); `*attached`: whether a thread that was refused is
 * attached all the same, as a daemon thread may be. */
static inline pyhold_status pyhold_gilstate_try(bool *attached) {
  pyhold_view *view = pyhold_gilstate_get();
  pyhold_view *origin = NULL;
  pyhold_status status = PYHOLD_OK;
  *attached = false;
  /* With one interpreter, or attached to the first, the answer is known. To ask where
   * the thread came from may take memory.
   * relaxed: see pyhold_gilstate_import(). */
  if (__atomic_load_n(&pyhold_gilstate_several, __ATOMIC_RELAXED) &&
      !pyhold_view_is_attached(view)) {
    status = pyhold_view_of_thread(view, &origin);
    view = origin;
  }
  if (status == PYHOLD_OK) {
    status = pyhold_thread_ensure_view(view);
    if (status != PYHOLD_OK) *attached = pyhold_view_is_attached(view);
  }
  pyhold_view_free(origin);
  return status;
}

/* Ask: attach to the interpreter that this thread came from, or to the first one if
 * it came from none. PYHOLD_EMISUSE before the import; else as
 * pyhold_thread_ensure_view(). If it is OK, pyhold_thread_release() must follow. */
PYHOLD_NODISCARD static inline pyhold_status pyhold_gilstate_ensure(void) {
  bool attached;
  return pyhold_gilstate_try(&attached);
}

#ifndef PYHOLD_GILSTATE_REFUSED
#define PYHOLD_GILSTATE_REFUSED(status) pyhold_gilstate_refused(status)

__attribute__((noreturn, noinline, cold)) static void pyhold_gilstate_refused(
    pyhold_status status) {
  if (status == PYHOLD_EFINALIZING &&
      !pyhold_gilstate_has_closed(pyhold_view_id(pyhold_gilstate_get()))) {
    static int told;
    if (!__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED))
      fprintf(stderr,
              "pyhold: refused a `with gil`, since Python finalizes; its "
              "thread is stopped for ever. pyhold_gilstate.h says how to ask "
              "first.\n");
    for (;;) pause();
  }
  fprintf(stderr, "pyhold: refused a `with gil`: %s (%s)\n",
          pyhold_status_name(status),
          pyhold_gilstate_get() == NULL
              ? "pyhold_gilstate_import() was not called"
              : pyhold_status_message(status));
  abort();
}
#endif

/* What stands for PyGILState_STATE below. */
typedef enum pyhold_gilstate {
  PYHOLD_GILSTATE_LOCKED = PyGILState_LOCKED,     /* these two: given back to */
  PYHOLD_GILSTATE_UNLOCKED = PyGILState_UNLOCKED, /* PyGILState_Release() */
  PYHOLD_GILSTATE_ENSURED                         /* pyhold_thread_release() */
} pyhold_gilstate;

/* Whether this thread finalizes an interpreter: it has its state to the end. */
__attribute__((noinline, cold)) static bool pyhold_gilstate_finalizes(void) {
  /* Else the state may be gone: it is not looked at. */
  if (pyhold_gilstate_closed[0] < 0 && pyhold_gilstate_closed[1] < 0)
    return false;
  PyThreadState *state = PyGILState_GetThisThreadState();
  return state != NULL && pyhold_gilstate_has_closed(PyInterpreterState_GetID(
                              PyThreadState_GetInterpreter(state)));
}

static inline pyhold_gilstate pyhold_gilstate_begin(void) {
  bool attached;
  pyhold_status status = pyhold_gilstate_try(&attached);
  if (status == PYHOLD_OK) return PYHOLD_GILSTATE_ENSURED;
  if (status == PYHOLD_EFINALIZING && (attached || pyhold_gilstate_finalizes()))
    return (pyhold_gilstate)PyGILState_Ensure();
  PYHOLD_GILSTATE_REFUSED(status);
}

static inline void pyhold_gilstate_end(pyhold_gilstate state) {
  if (state == PYHOLD_GILSTATE_ENSURED)
    pyhold_thread_release_keeping_error(); /* Cython comes back to handle it */
  else
    PyGILState_Release((PyGILState_STATE)state);
}

#define PyGILState_STATE pyhold_gilstate
#define PyGILState_Ensure pyhold_gilstate_begin
#define PyGILState_Release pyhold_gilstate_end

/* Before Python 3.12 the directive fast_gil has its own PyGILState_Ensure. */
#undef CYTHON_FAST_GIL
#define CYTHON_FAST_GIL 0

#endif /* PYHOLD_GILSTATE_H_ */
