/* The part of the real port that is on the path of every call: inline. With
 * port_cpython.c the only file that calls CPython or tests its version. */
#ifndef PYHOLD_SRC_PORT_CPYTHON_H_
#define PYHOLD_SRC_PORT_CPYTHON_H_

#include "gate.h"

#if PY_VERSION_HEX < 0x030B0000
#error "pyhold needs CPython 3.11 or newer"
#endif

/* 3.11: the current thread state is one global, not one for each thread. */
#define CURRENT_IS_GLOBAL (PY_VERSION_HEX < 0x030C0000)
/* 3.12+: a pending exception is one object; before, three pointers. */
#define ERROR_IS_ONE_OBJECT (PY_VERSION_HEX >= 0x030C0000)

/* 3.13+: threading.local has a key and a sentinel in each state; before, its
 * values are in the state's dict. */
#define HAS_THREADING_LOCAL_KEY (PY_VERSION_HEX >= 0x030D0000)
/* Before 3.13: the threading module waits for the end of the first thread that
 * imported it, until its state is deleted. */
#define HAS_ON_DELETE (PY_VERSION_HEX < 0x030D0000)

static inline bool ph_port_is_attached(PyThreadState *state) {
#if CURRENT_IS_GLOBAL
  return _PyThreadState_UncheckedGet() == state;
#else
  return state->_status.active;
#endif
}

static inline bool ph_port_has_error(PyThreadState *state) {
#if ERROR_IS_ONE_OBJECT
  return state->current_exception != NULL;
#else
  return state->curexc_type != NULL;
#endif
}

static inline int *ph_port_users(PyThreadState *state) {
  return &state->gilstate_counter;
}

static inline bool ph_port_is_clean_but_for_error(PyThreadState *state) {
#define LEFT(field) ((uintptr_t)state->field)
  uintptr_t left = LEFT(dict) | LEFT(async_exc) | LEFT(async_gen_firstiter) |
                   LEFT(async_gen_finalizer) | LEFT(context) |
                   LEFT(coroutine_origin_tracking_depth);
  /* None: Python code has handled an exception, and is done with it. */
  if (state->exc_state.exc_value != Py_None) left |= LEFT(exc_state.exc_value);
#if HAS_THREADING_LOCAL_KEY
  left |= LEFT(threading_local_key) | LEFT(threading_local_sentinel);
#endif
#if HAS_ON_DELETE
  left |= LEFT(on_delete); /* only deleting the state takes it away */
#endif
#undef LEFT
  return left == 0;
}

static inline bool ph_port_is_clean(PyThreadState *state) {
  return ph_port_is_clean_but_for_error(state) && !ph_port_has_error(state);
}

static inline bool ph_port_is_next(PyThreadState *state) {
#if CURRENT_IS_GLOBAL
  /* Attaching does not change the gilstate. With another thread attached it
   * cannot be told in a word whether it is this one. */
  (void)state;
  return _PyThreadState_UncheckedGet() == NULL;
#else
  /* Each attach makes its state the gilstate: so what is attached, if anything,
   * could only be this one. */
  return !state->_status.active && state->_status.bound_gilstate;
#endif
}

static inline void ph_port_attach(PyThreadState *state) {
  PyEval_RestoreThread(state);
}

static inline void ph_port_detach(PyThreadState *state) {
  (void)state;
  PyEval_SaveThread();
}

#endif /* PYHOLD_SRC_PORT_CPYTHON_H_ */
