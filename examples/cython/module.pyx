# cython: language_level=3, freethreading_compatible=True
"""An extension module of Cython whose callbacks come from native threads, at
any time: each `with gil` goes through pyhold."""

cdef extern from "pyhold_gilstate.h":
    ctypedef enum pyhold_status:
        PYHOLD_OK
    int pyhold_gilstate_import() except -1
    pyhold_status pyhold_gilstate_ensure() nogil
    # Of pyhold/core.h.
    ctypedef struct pyhold_view:
        pass
    pyhold_status pyhold_view_current(pyhold_view** out)
    pyhold_status pyhold_thread_ensure_view(pyhold_view* view) nogil
    void pyhold_thread_release() nogil
    void pyhold_view_free(pyhold_view* view) nogil

cdef extern from "examples/cython/library.h" nogil:
    ctypedef int (*library_callback)(void* context, int x, int* answer) noexcept
    void library_start(library_callback callback, void* context, int threads,
                       int detached)
    void library_await_calls(long calls)
    int library_call(library_callback callback, void* context, int times,
                     int* last_answer)
    void library_call_at_exit(library_callback callback, void* context)

cdef extern from "Python.h":
    int PyGILState_Check() nogil
    ctypedef struct PyInterpreterState:
        pass
    PyInterpreterState* PyInterpreterState_Get()
    long PyInterpreterState_GetID(PyInterpreterState* interp)

# Before anything else, as NumPy's import_array().
pyhold_gilstate_import()


# The library's threads call this one. It asks first, and so has an answer when
# Python ends. Nothing in it can raise.
cdef int on_event(void* context, int x, int* answer) noexcept nogil:
    cdef pyhold_status status = pyhold_gilstate_ensure()
    if status != PYHOLD_OK:
        return status  # the thread is as it was
    call_python(context, x, answer)  # never refused
    pyhold_thread_release()
    return 0


# What the callback raises goes to sys.unraisablehook; `answer` is left alone.
# Where the library calls this one, without asking, its thread may be stopped for
# ever when Python ends.
cdef int call_python(void* context, int x, int* answer) noexcept with gil:
    answer[0] = (<object> context)(x)
    return 0


cdef library_callback handler(object callback, bint ask) except NULL:
    if not callable(callback):
        raise TypeError("not callable")
    return on_event if ask else call_python


# Callbacks: the library has no references of its own. (No cdef variable, because
# all interpreters share those.)
kept = []


def start(callback, int threads, bint ask=True):
    cdef library_callback handle = handler(callback, ask)
    kept.append(callback)
    library_start(handle, <void*> callback, threads, not ask)


def await_calls(long calls):
    with nogil:
        library_await_calls(calls)


def call_at_exit(callback, bint ask=True):
    cdef library_callback handle = handler(callback, ask)
    kept.append(callback)
    library_call_at_exit(handle, <void*> callback)


# --- `with gil`, on a thread that... ---

# 1. ...never had a thread state. It gets one at the first call, and keeps it.
def on_new_thread(callback, int times, bint ask=True):
    cdef library_callback handle = handler(callback, ask)
    cdef int status, answer = 0
    with nogil:
        status = library_call(handle, <void*> callback, times, &answer)
    if status != 0:
        raise RuntimeError("refused")
    return answer


# 2. ...holds the GIL now. It has it afterwards, too.
def holding_it(callback, int x, bint ask=True):
    cdef int answer = 0
    cdef int status = handler(callback, ask)(<void*> callback, x, &answer)
    return answer, status, bool(PyGILState_Check())


# 3. ...had a thread state, and let it go. It has let it go afterwards, too.
def having_let_go(callback, int x, bint ask=True):
    cdef library_callback handle = handler(callback, ask)
    cdef int status, held_before, held_inside, held_after, answer = 0
    with nogil:
        held_before = PyGILState_Check()
        status = handle(<void*> callback, x, &answer)
        with gil:
            held_inside = PyGILState_Check()
        held_after = PyGILState_Check()
    return answer, status, [bool(held_before), bool(held_inside), bool(held_after)]


# --- In several interpreters ---
#
# `with gil` means the interpreter that its thread came from, as above. A native
# thread came from none, so it is told where to go.

cdef struct Target:
    pyhold_view* view
    void* callback


cdef int on_event_for(void* context, int x, int* answer) noexcept nogil:
    cdef Target* target = <Target*> context
    cdef pyhold_status status = pyhold_thread_ensure_view(target.view)
    if status != PYHOLD_OK:
        return status
    call_python(target.callback, x, answer)
    pyhold_thread_release()
    return 0


def on_new_thread_here(callback, int times):
    cdef Target target
    cdef int status, answer = 0
    target.callback = <void*> callback
    if pyhold_view_current(&target.view) != PYHOLD_OK:
        raise RuntimeError("Python ends")
    with nogil:
        status = library_call(on_event_for, &target, times, &answer)
        pyhold_view_free(target.view)
    if status != 0:
        raise RuntimeError("refused")
    return answer


# A thread that is told nothing goes to the interpreter that imported the module
# first.
cdef int where(void* context, int x, int* answer) noexcept with gil:
    answer[0] = <int> PyInterpreterState_GetID(PyInterpreterState_Get())
    return 0


def where_new_threads_go():
    cdef int answer = 0
    with nogil:
        library_call(where, NULL, 1, &answer)
    return answer
