/* The real port: the only file of the core that calls CPython. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "gate.h"
#include "port.h"
#include "registry.h"

#if PY_VERSION_HEX < 0x030B0000
#error "pyhold needs CPython 3.11 or newer"
#endif

/* 3.11: the current thread state is one global, not one for each thread. */
#define CURRENT_IS_GLOBAL (PY_VERSION_HEX < 0x030C0000)
/* 3.12+: each attach makes its state the one that PyGILState finds. */
#define ATTACH_REBINDS_GILSTATE (PY_VERSION_HEX >= 0x030C0000)
/* 3.12+: a pending exception is one object; before, three pointers. */
#define ERROR_IS_ONE_OBJECT (PY_VERSION_HEX >= 0x030C0000)
/* 3.12+: Py_AddPendingCall always means the main interpreter. */
#define PENDING_CALLS_ARE_MAINS (PY_VERSION_HEX >= 0x030C0000)
/* 3.13+: public names for what was private. */
#define HAS_GET_UNCHECKED (PY_VERSION_HEX >= 0x030D0000)
/* 3.15+: PEP 788. */
#define HAS_GUARDS (PY_VERSION_HEX >= 0x030F0000)

/* --- The pending exception, put aside --- */

#if ERROR_IS_ONE_OBJECT
typedef PyObject *error_state;
static error_state error_put_aside(void) { return PyErr_GetRaisedException(); }
static void error_put_back(error_state e) { PyErr_SetRaisedException(e); }
#else
typedef struct {
  PyObject *type, *value, *traceback;
} error_state;
static error_state error_put_aside(void) {
  error_state e;
  PyErr_Fetch(&e.type, &e.value, &e.traceback);
  return e;
}
static void error_put_back(error_state e) {
  PyErr_Restore(e.type, e.value, e.traceback);
}
#endif

/* --- Who is attached? --- */

port_state *ph_port_current(port_state **maybe) {
  *maybe = NULL;
#if HAS_GET_UNCHECKED
  return PyThreadState_GetUnchecked();
#else
  PyThreadState *current = _PyThreadState_UncheckedGet();
#if CURRENT_IS_GLOBAL
  if (current != NULL && current != PyGILState_GetThisThreadState()) {
    *maybe = current;
    return NULL;
  }
#endif
  return current;
#endif
}

bool ph_port_maybe_is_plausible(port_state *maybe) {
  (void)maybe;
  /* A thread's attached state differs from its gilstate only where there are
   * subinterpreters. These walk a list that changes under a lock of CPython's,
   * but reading whether it has a second element is one load. */
  PyInterpreterState *first = PyInterpreterState_Head();
  return first != NULL && PyInterpreterState_Next(first) != NULL;
}

port_state *ph_port_gilstate(void) { return PyGILState_GetThisThreadState(); }

bool ph_port_attach_rebinds_gilstate(void) { return ATTACH_REBINDS_GILSTATE; }

port_interp *ph_port_state_interp(port_state *state) { return state->interp; }

/* --- Thread states --- */

port_state *ph_port_state_new(port_interp *interp) {
  return PyThreadState_New(interp);
}

void ph_port_attach(port_state *state) { PyEval_RestoreThread(state); }

void ph_port_detach(port_state *state) {
  if (PyEval_SaveThread() != state)
    ph_fatal(
        "a guard ends while another thread state than its own is attached");
}

void ph_port_state_delete_attached(port_state *state) {
  PyThreadState_Clear(state);
  PyThreadState_DeleteCurrent();
}

/* --- Interpreters --- */

int64_t ph_port_interp_id(port_interp *interp) {
  return PyInterpreterState_GetID(interp);
}

bool ph_port_interp_is_main(port_interp *interp) {
  return interp == PyInterpreterState_Main();
}

/* The cookie is a capsule in the interpreter's own dict, which lives until the
 * interpreter is torn down, under a name that other copies of pyhold in the
 * process do not have. */
static PyObject *cookie_name(void) {
  static const char here;
  return PyUnicode_FromFormat("pyhold %p", (const void *)&here);
}

static void cookie_gone(PyObject *capsule) {
  ph_registry_interp_gone(PyCapsule_GetPointer(capsule, NULL));
}

void *ph_port_cookie(port_interp *interp) {
  error_state error = error_put_aside();
  PyObject *dict = PyInterpreterState_GetDict(interp);
  PyObject *name = cookie_name();
  void *cookie = NULL;
  if (dict != NULL && name != NULL) {
    PyObject *capsule = PyDict_GetItemWithError(dict, name);
    if (capsule != NULL) cookie = PyCapsule_GetPointer(capsule, NULL);
  }
  Py_XDECREF(name);
  PyErr_Clear();
  error_put_back(error);
  return cookie;
}

void *ph_port_cookie_set(port_interp *interp, void *cookie) {
  error_state error = error_put_aside();
  PyObject *dict = PyInterpreterState_GetDict(interp);
  PyObject *name = cookie_name();
  PyObject *capsule = PyCapsule_New(cookie, NULL, NULL);
  void *winner = NULL;
  if (dict != NULL && name != NULL && capsule != NULL) {
    PyObject *kept = PyDict_SetDefault(dict, name, capsule);
    if (kept == capsule) PyCapsule_SetDestructor(capsule, cookie_gone);
    if (kept != NULL) winner = PyCapsule_GetPointer(kept, NULL);
  }
  Py_XDECREF(capsule);
  Py_XDECREF(name);
  PyErr_Clear();
  error_put_back(error);
  return winner;
}

static PyObject *gate_callback(PyObject *capsule, PyObject *unused) {
  (void)unused;
  ph_registry_finalize(PyCapsule_GetPointer(capsule, NULL));
  Py_RETURN_NONE;
}

static PyMethodDef gate_method = {
    "pyhold_gate", gate_callback, METH_NOARGS,
    "Waits for the native threads that are in this interpreter."};

/* Whether the atexit callbacks run or ran: a callback registered now is
 * dropped in silence. CPython keeps that to itself; but threading._shutdown
 * runs just before them, and leaves a mark. Nothing imported threading: then
 * this cannot be told. */
static bool atexit_is_too_late(void) {
#if HAS_GET_UNCHECKED
  if (Py_IsFinalizing()) return true;
#else
  if (_Py_IsFinalizing()) return true;
#endif
  bool late = false;
  PyObject *name = PyUnicode_FromString("threading");
  PyObject *threading = name != NULL ? PyImport_GetModule(name) : NULL;
  if (threading != NULL) {
    PyObject *mark = PyObject_GetAttrString(threading, "_SHUTTING_DOWN");
    late = mark != NULL && PyObject_IsTrue(mark) == 1;
    Py_XDECREF(mark);
    Py_DECREF(threading);
  }
  Py_XDECREF(name);
  PyErr_Clear();
  return late;
}

pyhold_status ph_port_register_gate(void *cookie) {
  error_state error = error_put_aside();
  PyObject *atexit = PyImport_ImportModule("atexit");
  PyObject *capsule = PyCapsule_New(cookie, NULL, NULL);
  PyObject *gate =
      capsule != NULL ? PyCFunction_New(&gate_method, capsule) : NULL;
  PyObject *done = NULL;
  if (atexit != NULL && gate != NULL)
    done = PyObject_CallMethod(atexit, "register", "O", gate);
  pyhold_status status = PYHOLD_OK;
  if (done == NULL)
    status = PyErr_ExceptionMatches(PyExc_MemoryError) ? PYHOLD_ENOMEM
                                                       : PYHOLD_EFINALIZING;
  PyErr_Clear();
  /* Asked afterwards: if it is not too late now, it was not then. */
  if (status == PYHOLD_OK && atexit_is_too_late()) status = PYHOLD_EFINALIZING;
  Py_XDECREF(done);
  Py_XDECREF(gate);
  Py_XDECREF(capsule);
  Py_XDECREF(atexit);
  error_put_back(error);
  return status;
}

#if PENDING_CALLS_ARE_MAINS
static int adopt_main(void *unused) {
  (void)unused;
  ph_registry_adopt_main(PyInterpreterState_Main());
  return 0;
}

/* Py_FinalizeEx runs the pending calls just before the atexit callbacks. */
bool ph_port_adopt_main(void) {
  return Py_AddPendingCall(adopt_main, NULL) == 0;
}
#else
/* All interpreters share one GIL, which this thread has, so that it may go to
 * the main one and back without waiting. */
bool ph_port_adopt_main(void) {
  PyInterpreterState *main_interp = PyInterpreterState_Main();
  PyThreadState *own = PyGILState_GetThisThreadState();
  PyThreadState *state = own;
  if (own == NULL || own->interp != main_interp)
    state = PyThreadState_New(main_interp);
  if (state == NULL) return false;
  PyThreadState *before = PyThreadState_Swap(state);
  ph_registry_adopt_main(main_interp);
  if (state != own) PyThreadState_Clear(state);
  PyThreadState_Swap(before);
  if (state != own) PyThreadState_Delete(state);
  return true;
}
#endif

bool ph_port_interrupted(void) {
  if (PyErr_CheckSignals() == 0) return false;
#if HAS_GET_UNCHECKED
  PyErr_FormatUnraisable(
      "Exception ignored while waiting for threads that hold the interpreter");
#else
  PyObject *what = PyUnicode_FromString(
      "the wait for threads that hold the interpreter (pyhold)");
  PyErr_WriteUnraisable(what);
  Py_XDECREF(what);
#endif
  return true;
}

/* --- CPython's own guards --- */

#if HAS_GUARDS
void *ph_port_guard_take(void) {
  error_state error = error_put_aside();
  PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
  PyErr_Clear();
  error_put_back(error);
  return guard;
}

void ph_port_guard_close(void *guard) {
  /* CPython cannot have got here with a guard open, unless Ctrl-C made it give
   * up. Then there may be nothing left to tell. */
  if (Py_IsFinalizing() || !Py_IsInitialized()) return;
  PyInterpreterGuard_Close(guard);
}
#else
void *ph_port_guard_take(void) { return NULL; }
void ph_port_guard_close(void *guard) { (void)guard; }
#endif
