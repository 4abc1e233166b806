/* pep788: the API of Python 3.15 for threads that call Python (PEP 788), on 3.11
 * and newer.
 *
 *     #include <pyhold/pep788.h>
 *
 *     // once, attached (a module's init function is the usual place):
 *     PyInterpreterView *view = PyInterpreterView_FromCurrent();
 *     // on any thread, at any time:
 *     PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
 *     if (token == NULL) return -1; // the interpreter is finalizing, or gone
 *     ...call Python: it will not finalize in this block...
 *     PyThreadState_Release(token);
 *
 * On 3.15 and newer this header only includes Python.h. Before, it gives the
 * same names, types and contracts over pyhold's core (core.h), under link names
 * of their own, so that nothing clashes with CPython's. (PYHOLD_PEP788_FORCE, for
 * pyhold's own tests and benchmarks, makes it do so on 3.15 as well.)
 *
 * docs/pep788.md lists where the two differ, and the tests that show it. In
 * code that is new, core.h and pyhold.h say more about a failure, and do more.
 *
 * Each function's contract is that of CPython's documentation ("Spec"); here is
 * what it leaves open. Threads: any, with all of them. Fork: as in core.h. */
#ifndef PYHOLD_PEP788_H_
#define PYHOLD_PEP788_H_

#include <Python.h>

/* The limited API has these only if it is that of 3.15. */
#if PY_VERSION_HEX >= 0x030F0000 && !defined(PYHOLD_PEP788_FORCE) && \
    (!defined(Py_LIMITED_API) || Py_LIMITED_API + 0 >= 0x030F0000)
#define PYHOLD_PEP788_IS_NATIVE 1
#else
#define PYHOLD_PEP788_IS_NATIVE 0

#include "pyhold/core.h"

#define PyInterpreterGuard pyhold_PyInterpreterGuard
#define PyInterpreterView pyhold_PyInterpreterView
#define PyThreadStateToken pyhold_PyThreadStateToken
#define PyInterpreterGuard_FromCurrent pyhold_PyInterpreterGuard_FromCurrent
#define PyInterpreterGuard_FromView pyhold_PyInterpreterGuard_FromView
#define PyInterpreterGuard_Close pyhold_PyInterpreterGuard_Close
#define PyInterpreterView_FromCurrent pyhold_PyInterpreterView_FromCurrent
#define PyInterpreterView_FromMain pyhold_PyInterpreterView_FromMain
#define PyInterpreterView_Close pyhold_PyInterpreterView_Close
#define PyThreadState_Ensure pyhold_PyThreadState_Ensure
#define PyThreadState_EnsureFromView pyhold_PyThreadState_EnsureFromView
#define PyThreadState_Release pyhold_PyThreadState_Release

#ifdef __cplusplus
extern "C" {
#endif

/* Keeps its interpreter from finalizing. The C API's pyhold_interp is the same
 * thing. */
typedef struct PyInterpreterGuard PyInterpreterGuard;

/* Names an interpreter without keeping it. */
typedef struct PyInterpreterView PyInterpreterView;

/* What an ensure returns, for its release. Opaque. */
typedef void PyThreadStateToken;

/* Guard the interpreter that the calling thread is attached to.
 *
 * Attached:  required; else the process is aborted.
 * Returns:   NULL with an exception set: MemoryError; PythonFinalizationError
 *            (before 3.13 RuntimeError), once the gate has closed.
 * Owns:      the caller owns it; pass it once to PyInterpreterGuard_Close().
 * Forgotten: the interpreter waits for it at its end, for ever.
 * Blocks:    the first guard or view of an interpreter runs Python code.
 * Spec:      CPython C API, PyInterpreterGuard_FromCurrent.
 * Differs:   3.15 gives guards to all atexit callbacks; here the gate is one of
 *            them, and refuses those that come after it. */
PYHOLD_API PyInterpreterGuard *PyInterpreterGuard_FromCurrent(void);

/* Guard the interpreter of a view, which stays the caller's.
 *
 * Attached:  not needed.
 * Params:    view  not NULL.
 * Returns:   NULL if it is finalizing or gone; sets no exception.
 * Owns, Forgotten: as PyInterpreterGuard_FromCurrent().
 * Blocks:    never.
 * Spec:      CPython C API, PyInterpreterGuard_FromView.
 * Differs:   as PyInterpreterGuard_FromCurrent(). */
PYHOLD_API PyInterpreterGuard *PyInterpreterGuard_FromView(
    PyInterpreterView *view);

/* Close a guard.
 *
 * Attached:  not needed.
 * Aborts:    at a second close, unless another guard hides it.
 * Blocks:    never.
 * Spec:      CPython C API, PyInterpreterGuard_Close. */
PYHOLD_API void PyInterpreterGuard_Close(PyInterpreterGuard *guard);

/* Make a view of the interpreter that the calling thread is attached to.
 *
 * Attached:  required; else the process is aborted.
 * Returns:   NULL with a MemoryError set.
 * Owns:      the caller owns it; pass it once to PyInterpreterView_Close().
 * Forgotten: some bytes are lost, nothing else.
 * Blocks:    the first guard or view of an interpreter runs Python code.
 * Spec:      CPython C API, PyInterpreterView_FromCurrent.
 * Differs:   after Py_FinalizeEx and a new Py_Initialize the view refuses;
 *            3.15's names the new main interpreter then. */
PYHOLD_API PyInterpreterView *PyInterpreterView_FromCurrent(void);

/* Make a view of the main interpreter: whichever is, when the view is used.
 *
 * Attached:  not needed.
 * Returns:   never NULL, as in 3.15.0.
 * Owns, Forgotten: as PyInterpreterView_FromCurrent().
 * Blocks:    attached, as PyInterpreterView_FromCurrent(); else never.
 * Spec:      CPython C API, PyInterpreterView_FromMain.
 * Differs:   the view refuses until the main interpreter is known: see
 *            docs/pep788.md. An ensure through it takes a lock. */
PYHOLD_API PyInterpreterView *PyInterpreterView_FromMain(void);

/* Close a view.
 * Attached: not needed.   Blocks: never.
 * Spec: CPython C API, PyInterpreterView_Close. */
PYHOLD_API void PyInterpreterView_Close(PyInterpreterView *view);

/* Attach the calling thread to the interpreter of a guard; see
 * pyhold_thread_ensure() for what it finds or makes.
 *
 * Attached:  not needed. On 3.11 as pyhold_thread_ensure().
 * Returns:   NULL: out of memory; sets no exception.
 * Owns:      borrows the guard, which must be open during the call. Closed
 *            before the release it no longer protects this thread, which then
 *            is a daemon: see pyhold_thread_set_daemon().
 * Forgotten: as pyhold_thread_ensure().
 * Blocks:    until the GIL is free, unless it nests.
 * Spec:      CPython C API, PyThreadState_Ensure.
 * Differs:   3.15 deletes a thread state that it made at the release; here the
 *            main interpreter's are kept for the thread's next call. */
PYHOLD_API PyThreadStateToken *PyThreadState_Ensure(PyInterpreterGuard *guard);

/* The same for the interpreter of a view, which it guards until the release.
 *
 * Params:    view  not NULL.
 * Returns:   NULL if it is finalizing or gone, or for want of memory; sets no
 *            exception.
 * Attached, Forgotten, Blocks: as PyThreadState_Ensure().
 * Spec:      CPython C API, PyThreadState_EnsureFromView.
 * Differs:   as PyThreadState_Ensure() and PyInterpreterGuard_FromCurrent(). */
PYHOLD_API PyThreadStateToken *PyThreadState_EnsureFromView(
    PyInterpreterView *view);

/* Undo the newest ensure of the calling thread: what was attached before it is
 * attached again.
 *
 * Attached:  required: to what the ensure attached.
 * Params:    token  what that ensure returned.
 * Aborts:    when there is no ensure to undo.
 * Blocks:    as pyhold_thread_release().
 * Spec:      CPython C API, PyThreadState_Release. */
PYHOLD_API void PyThreadState_Release(PyThreadStateToken *token);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* !PYHOLD_PEP788_IS_NATIVE */

#endif /* PYHOLD_PEP788_H_ */
