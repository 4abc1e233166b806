/* fake_port: interpreters without Python, for tests of the core that run under
 * ThreadSanitizer. It has no GIL, as a free-threaded build has none: what
 * orders two threads is then pyhold's doing alone.
 *
 * It ends the process with a message when the core breaks a rule that CPython
 * would punish: attaching to, or making a state for, an interpreter that has
 * ended; attaching twice; deleting what is not attached. */
#ifndef PYHOLD_TESTS_FAKE_PORT_H_
#define PYHOLD_TESTS_FAKE_PORT_H_

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct _is;
struct _ts;

/* A new interpreter, with an id one above the last one, or 0 for a main one.
 * The calling thread gets a state for it that is attached; what was attached
 * before is set aside until the end. */
struct _is *fake_interp_begin(bool is_main);

/* Runs the atexit callbacks, then ends it: whoever attaches now is at fault.
 * Requires: the calling thread is attached to it. */
void fake_interp_end(struct _is *interp);

/* In a child of fork(), as PyOS_AfterFork_Child(): deletes all states but the one
 * that is attached, which must be the main interpreter's, and all other
 * interpreters. That state's thread is the one to end the main one, then. */
void fake_after_fork(void);

int64_t fake_interp_id(struct _is *interp);

/* Attach this thread to it, as Python's own threads are, and end that. */
void fake_thread_attach(struct _is *interp);
void fake_thread_detach(void);

/* Let go of what is attached to this thread, keeping it as its gilstate, and
 * take it back (Py_BEGIN_ALLOW_THREADS). */
struct _ts *fake_save(void);
void fake_restore(struct _ts *state);

/* The state attached to this thread, or NULL. */
struct _ts *fake_current(void);
/* How many states of the interpreter exist. */
int fake_state_count(struct _is *interp);

/* An object with one reference, and how many there are. */
struct _object *fake_object_new(struct _is *interp);
int fake_object_count(struct _is *interp);

/* Switches. */
void fake_set_no_memory(bool on); /* this thread: for states, cookies, gates */
void fake_set_too_late(bool on);  /* this thread: to register a gate */
void fake_set_no_gil(bool on);    /* exiting threads may attach */
void fake_interrupt(void);        /* the next look sees Ctrl-C */

/* What calls leave in the state that is attached: a value, whose destructor is
 * fake_on_delete()'s; an exception. */
void fake_leave_value(void);
void fake_leave_error(void);
bool fake_has_value(void);
bool fake_has_error(void);

/* How many use the state that is attached: what ph_port_users() counts. */
int fake_users(void);

/* Runs inside the deletion of a state, and of a value, attached, as destructors
 * do. */
void fake_on_delete(void (*fn)(void *), void *arg);

/* Runs once on this thread, before an interpreter is to get its cookie. */
void fake_before_cookie(void (*fn)(void *), void *arg);

/* Run once on this thread, before a state is attached, or detached. */
void fake_before_attach(void (*fn)(void *), void *arg);
void fake_before_detach(void (*fn)(void *), void *arg);

#ifdef __cplusplus
}
#endif

#endif /* PYHOLD_TESTS_FAKE_PORT_H_ */
