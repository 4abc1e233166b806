/* The real port. */
#include "port.h"
//
#include <stdio.h>
#include <string.h>

#include "registry.h"

/* 3.12+: each attach makes its state the one that PyGILState finds. */
#define ATTACH_REBINDS_GILSTATE (PY_VERSION_HEX >= 0x030C0000)
/* Before 3.13: an asynchronous exception is announced to the interpreter. */
#define ASYNC_EXC_IS_SIGNALLED (PY_VERSION_HEX < 0x030D0000)
/* 3.11: out of memory PyThreadState_New() crashes, between these two steps. */
#define NEW_STATE_NEEDS_MEMORY (PY_VERSION_HEX < 0x030C0000)
/* 3.12+: Py_AddPendingCall always means the main interpreter. */
#define PENDING_CALLS_ARE_MAINS (PY_VERSION_HEX >= 0x030C0000)
/* 3.13+: public names for what was private. */
#define HAS_GET_UNCHECKED (PY_VERSION_HEX >= 0x030D0000)
/* 3.13+: before it was its base class, RuntimeError. */
#define HAS_FINALIZATION_ERROR (PY_VERSION_HEX >= 0x030D0000)
/* 3.15+: the gilstate is a thread-local variable; Py_FinalizeEx clears only that
 * of its own thread. */
#define GILSTATE_OUTLIVES_RUNTIME (PY_VERSION_HEX >= 0x030F0000)
/* Before 3.14: asyncio keeps the running loop in the dict of the thread state, and
 * a borrowed pointer to that entry with the number of the state. */
#define ASYNCIO_BORROWS_FROM_DICT (PY_VERSION_HEX < 0x030E0000)
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

/* --- Which CPython is it? --- */

struct build {
  unsigned long version; /* as PY_VERSION_HEX */
  bool debug, free_threaded;
};

static const struct build compiled_for = {
    .version = PY_VERSION_HEX,
#ifdef Py_DEBUG
    .debug = true,
#endif
#ifdef Py_GIL_DISABLED
    .free_threaded = true,
#endif
};

static bool has_same_layout(const struct build *a, const struct build *b) {
  if (a->version >> 16 != b->version >> 16 || a->debug != b->debug ||
      a->free_threaded != b->free_threaded)
    return false;
  /* Layouts may change until the first release candidate (0xC), not after it. */
  bool are_final =
      (a->version >> 4 & 0xF) >= 0xC && (b->version >> 4 & 0xF) >= 0xC;
  return are_final || a->version == b->version;
}

static void build_name(const struct build *build, char *text, size_t size) {
  char level[8] = "";
  unsigned release = build->version >> 4 & 0xF;
  if (release != 0xF)
    snprintf(level, sizeof level, "%s%lu",
             release == 0xC   ? "rc"
             : release == 0xB ? "b"
                              : "a",
             build->version & 0xF);
  snprintf(text, size, "CPython %lu.%lu.%lu%s%s%s", build->version >> 24,
           build->version >> 16 & 0xFF, build->version >> 8 & 0xFF, level,
           build->free_threaded ? " free-threaded" : "",
           build->debug ? " debug" : "");
}

bool ph_port_fits(void) {
  static atomic_int known; /* 0: not yet; 1: it does; -1: it does not */
  /* relaxed, all: the answer is always the same. */
  int fits = atomic_load_explicit(&known, memory_order_relaxed);
  if (fits != 0) return fits > 0;
  struct build running = {.version = Py_Version,
                          .debug = compiled_for.debug,
                          .free_threaded = compiled_for.free_threaded};
  if (running.version >> 16 == compiled_for.version >> 16) {
    /* Functions only. The name may be gone when modules are torn down. */
    error_state error = error_put_aside();
    PyObject *name = PySys_GetObject("abiflags");
    const char *flags = name != NULL ? PyUnicode_AsUTF8(name) : NULL;
    if (flags != NULL) {
      running.debug = strchr(flags, 'd') != NULL;
      running.free_threaded = strchr(flags, 't') != NULL;
    }
    PyErr_Clear();
    error_put_back(error);
  }
  fits = has_same_layout(&compiled_for, &running) ? 1 : -1;
  int before = 0;
  if (atomic_compare_exchange_strong_explicit(
          &known, &before, fits, memory_order_relaxed, memory_order_relaxed) &&
      fits < 0) {
    char ours[64], theirs[64];
    build_name(&compiled_for, ours, sizeof ours);
    build_name(&running, theirs, sizeof theirs);
    fprintf(stderr,
            "pyhold: compiled for %s, but this is %s: every use is refused\n",
            ours, theirs);
  }
  return fits > 0;
}

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
#if CURRENT_IS_GLOBAL
  /* A thread's attached state differs from its gilstate only where there are
   * subinterpreters. They come and go under the one GIL, which the caller has. */
  PyInterpreterState *first = PyInterpreterState_Head();
  return first != NULL && PyInterpreterState_Next(first) != NULL;
#else
  return false; /* there is no `maybe` */
#endif
}

port_state *ph_port_gilstate(void) { return PyGILState_GetThisThreadState(); }

port_state *ph_port_displaced_by(port_state *next) {
#if ATTACH_REBINDS_GILSTATE
  if (next->_status.bound_gilstate) return NULL; /* it is the gilstate itself */
  return PyGILState_GetThisThreadState();
#else
  (void)next;
  return NULL;
#endif
}

void ph_port_forget_gilstate(port_interp *interp) {
#if GILSTATE_OUTLIVES_RUNTIME && !defined(Py_DEBUG)
  /* Attaching a state writes into the one that was the gilstate before, and
   * deleting one that says it is the gilstate leaves none: so one is made that
   * says so. (A debug build asserts that it tells the truth, and that what was
   * the gilstate lives: it knows no way out. See docs/design.md.) */
  PyThreadState *state = PyThreadState_New(interp);
  if (state == NULL) return;
  state->_status.bound_gilstate = 1;
  PyEval_RestoreThread(state);
  ph_port_state_delete_attached(state);
#else
  (void)interp;
#endif
}

port_interp *ph_port_state_interp(port_state *state) { return state->interp; }

uint64_t ph_port_state_id(port_state *state) {
  return PyThreadState_GetID(state);
}

/* --- Thread states --- */

#if NEW_STATE_NEEDS_MEMORY
/* Not in a public header. */
PyAPI_FUNC(void) _PyThreadState_SetCurrent(PyThreadState *);

port_state *ph_port_state_new(port_interp *interp) {
  PyThreadState *state = _PyThreadState_Prealloc(interp);
  if (state != NULL) _PyThreadState_SetCurrent(state);
  return state;
}
#else
port_state *ph_port_state_new(port_interp *interp) {
  return PyThreadState_New(interp);
}
#endif

void ph_port_state_delete_attached(port_state *state) {
  PyThreadState_Clear(state);
  PyThreadState_DeleteCurrent();
}

void ph_port_state_delete_orphan(port_state *state) {
#if ATTACH_REBINDS_GILSTATE
  /* Else PyThreadState_Delete() would clear the gilstate of the *calling*
   * thread, whose next PyGILState_Ensure would deadlock. */
  state->_status.bound_gilstate = 0;
#endif
  PyThreadState_Clear(state);
  PyThreadState_Delete(state);
}

bool ph_port_exit_deletes_state(void) {
#ifdef Py_GIL_DISABLED
  return true;
#else
  return false;
#endif
}

/* What an identity points to that belongs to no thread. From 3.14 on faulthandler
 * asks the C library for the name of the thread, which reads this as if it were
 * the thread's own memory: an id of 0, which names no thread. */
static _Alignas(64) char nobody[8192];

void ph_port_state_disown(port_state *state) {
  state->thread_id = (unsigned long)(uintptr_t)nobody;
}

void ph_port_state_own(port_state *state) {
  state->thread_id = PyThread_get_thread_ident();
  PyThreadState *bound = PyGILState_GetThisThreadState();
  if (bound == state) return;
#if ATTACH_REBINDS_GILSTATE
  state->_status.bound_gilstate = 0; /* so that the attach binds it */
#else
  if (bound != NULL) return;
  int users = state->gilstate_counter;
  _PyThreadState_SetCurrent(state);
  state->gilstate_counter = users;
#endif
}

#if ASYNC_EXC_IS_SIGNALLED
/* Let an asynchronous exception be raised, so that CPython forgets that there is
 * one: just taking it away would make a traced thread look for it for ever. */
static void take_async_exc(PyThreadState *state) {
  if (state->async_exc == NULL) return;
  error_state error = error_put_aside();
  PyObject *globals = PyDict_New();
  PyObject *code = Py_CompileString("0", "<pyhold>", Py_eval_input);
  if (globals != NULL && code != NULL)
    Py_XDECREF(PyEval_EvalCode(code, globals, globals));
  Py_XDECREF(code);
  Py_XDECREF(globals);
  PyErr_Clear();
  error_put_back(error);
}
#endif

static void clear_dict(port_state *state) {
#if ASYNCIO_BORROWS_FROM_DICT
  PyObject *loop = NULL;
  if (state->dict != NULL)
    loop = PyDict_GetItemString(state->dict, "__asyncio_running_event_loop__");
  if (loop != NULL) {
    /* Let it borrow another: no loop, which lives as long as the state. That
     * is not clean then, so it is not kept. */
    error_state error = error_put_aside();
    Py_INCREF(loop);
    Py_CLEAR(state->dict);
    PyObject *name = PyUnicode_FromString("_asyncio");
    PyObject *asyncio = name != NULL ? PyImport_GetModule(name) : NULL;
    PyObject *done = NULL;
    if (asyncio != NULL)
      done = PyObject_CallMethod(asyncio, "_set_running_loop", "O", Py_None);
    Py_XDECREF(done);
    Py_XDECREF(asyncio);
    Py_XDECREF(name);
    Py_DECREF(loop);
    PyErr_Clear();
    error_put_back(error);
    return;
  }
#endif
  Py_CLEAR(state->dict);
}

/* In the order of PyThreadState_Clear(). The state has the thread's own keys and
 * hooks only: nobody else looks at them. */
void ph_port_clear_state(port_state *state) {
#if ASYNC_EXC_IS_SIGNALLED
  take_async_exc(state);
#endif
  clear_dict(state);
  Py_CLEAR(state->async_exc);
  PyErr_SetExcInfo(NULL, NULL, NULL); /* the exception that is handled */
  state->coroutine_origin_tracking_depth = 0;
  Py_CLEAR(state->async_gen_firstiter);
  Py_CLEAR(state->async_gen_finalizer);
  if (state->context != NULL) {
    Py_CLEAR(state->context);
    ++state->context_ver; /* context variables cache what they found */
  }
#if HAS_THREADING_LOCAL_KEY
  Py_CLEAR(state->threading_local_key);
  Py_CLEAR(state->threading_local_sentinel);
#endif
}

bool ph_port_is_unused(port_state *state) {
#if HAS_GUARDS
  if (state->ensure.counter != 0) return false;
#endif
  PyFrameObject *running = PyThreadState_GetFrame(state);
  Py_XDECREF(running);
  return running == NULL;
}

void ph_port_object_release(PyObject *object) { Py_DECREF(object); }

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

void *ph_port_shared(port_interp *interp, const char *name, void *mine) {
  error_state error = error_put_aside();
  PyObject *dict = PyInterpreterState_GetDict(interp);
  PyObject *key = PyUnicode_FromString(name);
  PyObject *capsule = PyCapsule_New(mine, "pyhold copies", NULL);
  void *shared = NULL;
  if (dict != NULL && key != NULL && capsule != NULL) {
    PyObject *kept = PyDict_SetDefault(dict, key, capsule); /* borrowed */
    if (kept != NULL) shared = PyCapsule_GetPointer(kept, "pyhold copies");
  }
  Py_XDECREF(capsule);
  Py_XDECREF(key);
  PyErr_Clear();
  error_put_back(error);
  return shared;
}

/* --- The gate's place in atexit ---
 *
 * CPython runs all callbacks, newest first, and then drops their arguments, before
 * it marks the end. So the gate is the destructor of an argument: it closes after
 * every callback, older ones too, and what they hand to native threads arrives. */

static const char gate_name[] = "pyhold gate";

/* The atexit module, or another instance of it, which acts on the same list: that
 * of the interpreter. Importing it would run byte code, in which the GIL changes
 * hands. The caller may have a lock, such as that of a function's static, and the
 * thread that gets the GIL may wait for it. */
static PyObject *atexit_module(void) {
  PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
  PyObject *name = PyUnicode_FromString("atexit");
  PyObject *known = name != NULL && modules != NULL
                        ? PyDict_GetItemWithError(modules, name)
                        : NULL;
  PyObject *module = NULL;
  if (known != NULL && PyModule_Check(known)) {
    module = Py_NewRef(known);
  } else if (!PyErr_Occurred() && name != NULL) {
    PyObject *imp = PyDict_GetItemString(modules, "_imp"); /* borrowed */
    PyObject *spec = PyModule_NewObject(name); /* all it needs is spec.name */
    if (imp != NULL && spec != NULL &&
        PyObject_SetAttrString(spec, "name", name) == 0)
      module = PyObject_CallMethod(imp, "create_builtin", "O", spec);
    PyObject *done = module != NULL
                         ? PyObject_CallMethod(imp, "exec_builtin", "O", module)
                         : NULL;
    if (done == NULL) Py_CLEAR(module);
    Py_XDECREF(done);
    Py_XDECREF(spec);
  }
  Py_XDECREF(name);
  if (module == NULL && !PyErr_Occurred())
    module = PyImport_ImportModule("atexit");
  return module;
}

/* Called with the others, if the gate was registered before they began to run.
 * Whoever keeps our arguments would keep the gate open: then it closes here. */
static PyObject *gate_callback(PyObject *unused, PyObject *args) {
  (void)unused;
  PyObject *capsule = PyTuple_GET_ITEM(args, 0);
  ph_registry_callbacks_run(PyCapsule_GetPointer(capsule, gate_name));
  bool is_kept = Py_REFCNT(args) > 1 || Py_REFCNT(capsule) > 1;
  PyObject_GC_UnTrack(
      args); /* gc.get_objects() does not find it from here on */
  if (is_kept)
    ph_registry_finalize(PyCapsule_GetPointer(capsule, gate_name),
                         /*may_wait=*/true);
  Py_RETURN_NONE;
}

static PyMethodDef gate_method = {
    "pyhold_gate", gate_callback, METH_VARARGS,
    "Waits for the native threads that are in this interpreter."};

static bool is_finalizing(void) {
#if HAS_GET_UNCHECKED
  return Py_IsFinalizing();
#else
  return _Py_IsFinalizing();
#endif
}

/* Whether threading's shutdown has begun, which comes before the callbacks.
 * *known: false if it cannot be told, as where nothing imported threading. Requires:
 * no exception is pending. */
static bool is_shut_down(bool *known) {
  PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
  PyObject *threading =
      modules != NULL ? PyDict_GetItemString(modules, "threading") : NULL;
  PyObject *mark =
      threading != NULL && PyModule_Check(threading)
          ? PyDict_GetItemString(PyModule_GetDict(threading), "_SHUTTING_DOWN")
          : NULL;
  *known = mark != NULL;
  if (mark != Py_False) return mark == Py_True;
  /* Up to 3.12 the thread that imported threading first is its main thread. If that
   * has ended, the shutdown returns without the mark. */
  PyObject *main_thread =
      PyDict_GetItemString(PyModule_GetDict(threading), "_main_thread");
  PyObject *stopped = main_thread != NULL
                          ? PyObject_GetAttrString(main_thread, "_is_stopped")
                          : NULL;
  if (stopped == Py_True) *known = false;
  Py_XDECREF(stopped);
  PyErr_Clear();
  return false;
}

/* The argument is dropped. At the end of the interpreter, as meant? A program may
 * call atexit._run_exitfuncs() or atexit._clear() in mid-life, as the children of
 * multiprocessing do. */
static void gate_dropped(PyObject *capsule) {
  void *cookie = PyCapsule_GetPointer(capsule, gate_name);
  if (is_finalizing()) {
    ph_registry_finalize(cookie, /*may_wait=*/false);
    return;
  }
  error_state error = error_put_aside();
  bool known;
  bool is_end = is_shut_down(&known);
  if (!known)
    is_end = ph_registry_has_run_callbacks(cookie) ||
             PyEval_GetFrame() == NULL; /* nobody called it */
  error_put_back(error);
  if (is_end)
    ph_registry_finalize(cookie, /*may_wait=*/true);
  else
    ph_registry_gate_lost(cookie);
}

bool ph_port_gate_is_late(void) {
  /* None: modules are torn down. (NULL: no memory.) */
  return is_finalizing() || PySys_GetObject("meta_path") == Py_None;
}

static bool register_gate(void *cookie) {
  PyObject *atexit = atexit_module();
  PyObject *capsule = PyCapsule_New(cookie, gate_name, NULL);
  PyObject *gate = PyCFunction_New(&gate_method, NULL);
  PyObject *done = NULL;
  if (atexit != NULL && gate != NULL && capsule != NULL)
    done = PyObject_CallMethod(atexit, "register", "OO", gate, capsule);
  bool ok = done != NULL;
  /* Not before: a capsule that fails to be registered is no gate. */
  if (ok) PyCapsule_SetDestructor(capsule, gate_dropped);
  Py_XDECREF(done);
  Py_XDECREF(gate);
  Py_XDECREF(capsule);
  Py_XDECREF(atexit);
  return ok;
}

pyhold_status ph_port_register_gate(void *cookie) {
  error_state error = error_put_aside();
  /* Before 3.12 the collector may run, and with it Python code, wherever an object
   * is made. */
  int collects = PyGC_Disable();
  pyhold_status status = PYHOLD_OK;
  bool ok = register_gate(cookie);
  if (!ok && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
    /* Ctrl-C came before, and is somebody else's: give it back. */
    PyErr_Clear();
    ok = register_gate(cookie);
    PyErr_SetInterrupt();
  }
  PyErr_Clear();
  /* What else it is for want of: memory, stack. */
  if (!ok) status = ph_port_gate_is_late() ? PYHOLD_EFINALIZING : PYHOLD_ENOMEM;
  if (collects) PyGC_Enable();
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

bool ph_port_adopt_main_later(void) { return ph_port_adopt_main(); }
#else
/* All interpreters share one GIL, which this thread has, so that it may go to
 * the main one and back without waiting. */
bool ph_port_adopt_main(void) {
  PyInterpreterState *main_interp = PyInterpreterState_Main();
  PyThreadState *own = PyGILState_GetThisThreadState();
  PyThreadState *state = own;
  if (own == NULL || own->interp != main_interp)
    state = ph_port_state_new(main_interp);
  if (state == NULL) return false;
  PyThreadState *before = PyThreadState_Swap(state);
  ph_registry_adopt_main(main_interp);
  if (state != own) PyThreadState_Clear(state);
  PyThreadState_Swap(before);
  if (state != own) PyThreadState_Delete(state);
  return true;
}

static int adopt_main(void *unused) {
  (void)unused;
  (void)ph_port_adopt_main();
  return 0;
}

bool ph_port_adopt_main_later(void) {
  return Py_AddPendingCall(adopt_main, NULL) == 0;
}
#endif

static int register_again(void *cookie) {
  ph_registry_register_again(cookie);
  return 0;
}

bool ph_port_register_main_gate_later(void *cookie) {
  return Py_AddPendingCall(register_again, cookie) == 0;
}

bool ph_port_interrupted(void) {
  if (PyErr_CheckSignals() == 0) return false;
  bool is_interrupt = PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
#if HAS_GET_UNCHECKED
  PyErr_FormatUnraisable(
      "Exception ignored while waiting for threads that hold the interpreter");
#else
  PyObject *what = PyUnicode_FromString(
      "the wait for threads that hold the interpreter (pyhold)");
  PyErr_WriteUnraisable(what);
  Py_XDECREF(what);
#endif
  return is_interrupt;
}

void ph_port_forget_error(void) { PyErr_Clear(); }

void ph_port_report_error(const char *file, int line) {
#if HAS_GET_UNCHECKED
  PyErr_FormatUnraisable("Exception left pending in a guard of pyhold (%s:%d)",
                         file != NULL ? file : "?", line);
#else
  error_state error = error_put_aside();
  PyObject *where = PyUnicode_FromFormat("a guard of pyhold (%s:%d)",
                                         file != NULL ? file : "?", line);
  PyErr_Clear();
  error_put_back(error);
  PyErr_WriteUnraisable(where);
  Py_XDECREF(where);
#endif
}

void ph_port_report_deferred_error(void) {
  if (PyErr_Occurred() == NULL) return;
#if HAS_GET_UNCHECKED
  PyErr_FormatUnraisable("Exception ignored in what was deferred (pyhold)");
#else
  PyErr_WriteUnraisable(NULL);
#endif
}

void ph_port_raise_no_memory(void) { PyErr_NoMemory(); }

void ph_port_raise_does_not_fit(void) {
  PyErr_SetString(PyExc_RuntimeError,
                  "pyhold was compiled for another build of CPython");
}

void ph_port_raise_finalizing(const char *message) {
#if HAS_FINALIZATION_ERROR
  PyErr_SetString(PyExc_PythonFinalizationError, message);
#else
  PyErr_SetString(PyExc_RuntimeError, message);
#endif
}
