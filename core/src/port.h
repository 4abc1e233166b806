/* port: all that the core needs of CPython.
 *
 * port_cpython.c is the real one, and the only file of the core that calls
 * CPython or tests its version. tests/support/fake_port.c is another, without
 * an interpreter, so that the rest can run under ThreadSanitizer.
 *
 * None of these leaves a Python exception set that was not set before. */
#ifndef PYHOLD_SRC_PORT_H_
#define PYHOLD_SRC_PORT_H_

#include <stdbool.h>
#include <stdint.h>

#include "pyhold/core.h"

typedef struct _is port_interp;
typedef struct _ts port_state;

/* --- Who is attached? (any thread) --- */

/* The state that is attached to the calling thread, or NULL.
 * On 3.11 "current" is one global of the process, so that it can be another
 * thread's: there, a current state that is not the thread's own gilstate goes
 * to *maybe, and the caller says whether it knows it. Else *maybe is NULL. */
port_state *ph_port_current(port_state **maybe);

/* Requires: the caller vouches that it is attached to what ph_port_current()
 * gave as *maybe. False if even so it cannot be. */
bool ph_port_maybe_is_plausible(port_state *maybe);

/* The state that PyGILState_Ensure would attach to this thread, or NULL. */
port_state *ph_port_gilstate(void);

/* Whether each attach makes its state the thread's gilstate (3.12+). */
bool ph_port_attach_rebinds_gilstate(void);

port_interp *ph_port_state_interp(port_state *state);

/* --- Thread states. The interpreter must be kept from finalizing. --- */

/* Make a state for the calling thread, attached or not. NULL: no memory. */
port_state *ph_port_state_new(port_interp *interp);

/* Blocks until the GIL is free. Requires: the thread is detached. */
void ph_port_attach(port_state *state);

/* Requires: the thread is attached to `state`. */
void ph_port_detach(port_state *state);

/* Clear, delete and detach. Runs Python destructors.
 * Requires: the thread is attached to `state`. */
void ph_port_state_delete_attached(port_state *state);

/* --- Interpreters. Requires: attached to the interpreter in question. --- */

int64_t ph_port_interp_id(port_interp *interp);
bool ph_port_interp_is_main(port_interp *interp);

/* The cookie that the interpreter keeps until the end of its life, when it
 * calls ph_registry_interp_gone() with it; NULL if it has none. */
void *ph_port_cookie(port_interp *interp);

/* Give the interpreter a cookie. Returns the one that it has then: another, if
 * a thread was faster; NULL: no memory. */
void *ph_port_cookie_set(port_interp *interp, void *cookie);

/* Register ph_registry_finalize(cookie) with the interpreter's atexit module.
 * OK; ENOMEM; EFINALIZING: its callbacks run already, or ran. Runs Python. */
pyhold_status ph_port_register_gate(void *cookie);

/* Have ph_registry_adopt_main() called, attached to the main interpreter:
 * now or, from another interpreter, before the main one's atexit callbacks.
 * False: no memory, or too many such calls are pending. */
bool ph_port_adopt_main(void);

/* Let Ctrl-C be noticed: true if it was, and has been reported. */
bool ph_port_interrupted(void);

/* --- CPython's own guards (3.15) --- */

/* Make CPython wait before it finalizes this interpreter, after its atexit
 * callbacks; NULL where it has no such means. Requires: attached. */
void *ph_port_guard_take(void);
/* Attached: not needed. */
void ph_port_guard_close(void *guard);

#endif /* PYHOLD_SRC_PORT_H_ */
