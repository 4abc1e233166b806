/* port: all that the core needs of CPython.
 *
 * port_cpython.c and .h are the real one, and the only files of the core that
 * call CPython or test its version. tests/support/fake_port.c is another,
 * without an interpreter, so that the rest can run under ThreadSanitizer.
 *
 * None of these leaves a Python exception set that was not set before, but
 * ph_port_raise_...(). */
#ifndef PYHOLD_SRC_PORT_H_
#define PYHOLD_SRC_PORT_H_

#include "first.h"
//
#include <stdbool.h>
#include <stdint.h>

#include "pyhold/core.h"

PH_HIDDEN_BEGIN

typedef struct _is port_interp;
typedef struct _ts port_state;

/* Whether the core was compiled for the CPython that runs: the same minor version,
 * and both or neither of debug and free-threaded. The first "no" is explained on
 * stderr. Looks at no field of a thread state or an object, which may lie
 * elsewhere. Requires: attached. */
bool ph_port_fits(void);

/* --- Who is attached? (any thread) --- */

/* The state that is attached to the calling thread, or NULL.
 * On 3.11 "current" is one global of the process, so that it can be another
 * thread's: there, a current state that is not the thread's own gilstate goes
 * to *maybe, and the caller says whether it knows it. Else *maybe is NULL. */
port_state *ph_port_current(port_state **maybe);

/* Requires: the caller vouches that it is attached to what ph_port_current()
 * gave as *maybe. False if even so it cannot be. */
bool ph_port_maybe_is_plausible(port_state *maybe);

/* A number that no other state of its interpreter has. Requires: some thread is
 * attached to `state`. */
uint64_t ph_port_state_id(port_state *state);

/* The state that PyGILState_Ensure would attach to this thread, or NULL. */
port_state *ph_port_gilstate(void);

/* The thread's gilstate, if attaching `next` would make the thread forget it:
 * from 3.12 on each attach makes its state the gilstate. Else NULL. */
port_state *ph_port_displaced_by(port_state *next);

/* Make the thread forget its gilstate, which CPython has deleted with its
 * interpreter. (3.15, after Py_Initialize ran again; before it cannot happen.)
 * Requires: detached; `interp`, another, is kept from finalizing. */
void ph_port_forget_gilstate(port_interp *interp);

port_interp *ph_port_state_interp(port_state *state);

/* --- Thread states. The interpreter must be kept from finalizing. --- */

/* Make a state for the calling thread, attached or not. NULL: no memory. */
port_state *ph_port_state_new(port_interp *interp);

/* Clear, delete and detach. Runs Python destructors.
 * Requires: the thread is attached to `state`. */
void ph_port_state_delete_attached(port_state *state);

/* Clear and delete the state of a thread that has exited. Runs Python
 * destructors, unless it is clean. Requires: attached to another state of the
 * same interpreter. */
void ph_port_state_delete_orphan(port_state *state);

/* Whether an exiting thread deletes its state itself, because there is no GIL
 * to wait for (free-threaded builds; there, clearing the state of another
 * thread is not sound either). Else it leaves it behind. */
bool ph_port_exit_deletes_state(void);

/* Take the thread's identity from a state that is not in use: nobody finds it by
 * that any more, and dumps do not look at a thread that has ended. Requires: the
 * state is the calling thread's own, and detached. */
void ph_port_state_disown(port_state *state);
/* Give it back, on the same thread. PyGILState_Ensure finds the state again, if
 * it finds none. */
void ph_port_state_own(port_state *state);

/* Clear what calls left in a state, but for a pending exception: what
 * PyThreadState_Clear() clears, without trace and profile functions. Runs Python
 * destructors. Requires: attached to it. */
void ph_port_clear_state(port_state *state);

/* Whether nothing runs on a state, and nobody holds it, that its count of users
 * does not show: Python frames, an ensure of CPython's own. Requires: attached to
 * it. */
bool ph_port_is_unused(port_state *state);

/* --- On the path of every call --- */

#ifdef PYHOLD_FAKE_PORT
#define PH_PORT_HOT
#else
#define PH_PORT_HOT static inline
#endif

/* Whether this thread is attached to `state`, which is its own. */
PH_PORT_HOT bool ph_port_is_attached(port_state *state);

/* Whether an exception is pending in `state`, which this thread is attached to. */
PH_PORT_HOT bool ph_port_has_error(port_state *state);

/* How many use a state: its gilstate_counter, in which PyGILState and all copies
 * of pyhold count. A new state has 1, for whoever is to delete it. */
PH_PORT_HOT int *ph_port_users(port_state *state);
/* What a kept state has instead of 1: so PyGILState_Release() never deletes it,
 * and all copies know it. */
#define PH_KEPT 0x50480000

/* Whether a state holds nothing that a call left in it. */
PH_PORT_HOT bool ph_port_is_clean(port_state *state);
/* The same, leaving a pending exception out of account. */
PH_PORT_HOT bool ph_port_is_clean_but_for_error(port_state *state);

/* Whether `state`, which is this thread's own, can be attached as things are:
 * the thread is detached, and ph_port_displaced_by(state) is NULL. May be false
 * for no reason. */
PH_PORT_HOT bool ph_port_is_next(port_state *state);

/* Blocks until the GIL is free. Requires: the thread is detached. */
PH_PORT_HOT void ph_port_attach(port_state *state);

/* Requires: the thread is attached to `state`. */
PH_PORT_HOT void ph_port_detach(port_state *state);

PH_HIDDEN_END
#ifndef PYHOLD_FAKE_PORT
#include "port_cpython.h"
#endif
PH_HIDDEN_BEGIN

/* --- Objects. Requires: attached to the object's interpreter. --- */

/* Py_DECREF. */
void ph_port_object_release(struct _object *object);

/* --- Interpreters. Requires: attached to the interpreter in question. --- */

int64_t ph_port_interp_id(port_interp *interp);
bool ph_port_interp_is_main(port_interp *interp);

/* The cookie that the interpreter keeps until the end of its life, when it
 * calls ph_registry_interp_gone() with it; NULL if it has none. */
void *ph_port_cookie(port_interp *interp);

/* Give the interpreter a cookie. Returns the one that it has then: another, if
 * a thread was faster; NULL: no memory. */
void *ph_port_cookie_set(port_interp *interp, void *cookie);

/* What all copies of pyhold share in the interpreter, under a name of theirs.
 * Returns what is there then: `mine`, or another copy's; NULL: no memory. */
void *ph_port_shared(port_interp *interp, const char *name, void *mine);

/* Register the gate: ph_registry_callbacks_run(cookie) is called with the
 * interpreter's atexit callbacks, ph_registry_finalize(cookie) after the last of
 * them; ph_registry_gate_lost(cookie), if somebody takes the gate out of atexit.
 * OK; EFINALIZING: it cannot be had any more; ENOMEM: it cannot be had now. Runs
 * no byte code. */
pyhold_status ph_port_register_gate(void *cookie);

/* Call ph_registry_register_again(cookie), attached to the main interpreter, soon,
 * before its atexit callbacks. False: too many such calls are pending. */
bool ph_port_register_main_gate_later(void *cookie);

/* Whether the interpreter is past the point where a gate would be noticed. */
bool ph_port_gate_is_late(void);

/* Call ph_registry_adopt_main(), attached to the main interpreter:
 * now or, from another interpreter, before the main one's atexit callbacks.
 * False: no memory, or too many such calls are pending. */
bool ph_port_adopt_main(void);

/* The same, but never now, and without running Python code. */
bool ph_port_adopt_main_later(void);

/* Run the handlers of signals that came. An exception of theirs is reported as
 * unraisable; true if it was KeyboardInterrupt. */
bool ph_port_interrupted(void);

/* Clear the pending exception, if any. Requires: attached. Runs Python
 * destructors. */
void ph_port_forget_error(void);
/* The same, with word of it to sys.unraisablehook. */
void ph_port_report_error(const char *file, int line);

/* Report the exception that is pending, if any, to sys.unraisablehook: it was left
 * by something that was deferred. Requires: attached. */
void ph_port_report_deferred_error(void);

/* Set a MemoryError; a RuntimeError for ph_port_fits(); or, with a message, what
 * CPython says of things that come too late. These are for pep788.c, whose functions
 * set exceptions. */
void ph_port_raise_no_memory(void);
void ph_port_raise_does_not_fit(void);
void ph_port_raise_finalizing(const char *message);

PH_HIDDEN_END

#endif /* PYHOLD_SRC_PORT_H_ */
