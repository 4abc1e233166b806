/* registry: the interpreters that pyhold knows, and their ends.
 *
 * A record stands for one living interpreter and is never used for another.
 *
 *   state     how it is entered                               lookup by id
 *   HIDDEN    made; its gate is not yet known to atexit       not found
 *   READY     atexit has the gate                             held
 *   CLOSED    the gate is closed; finalization waits          EFINALIZING
 *   DEAD      nothing holds it any more, or the wait was      EFINALIZING
 *             given up; out of the list
 *
 * A record belongs to: the list (until DEAD), the interpreter's cookie (until
 * the interpreter is gone), each view, each slot. The last one frees it. A
 * hold needs no reference of its own: the record is not DEAD while it exists,
 * or, where the wait was given up, is never freed. */
#ifndef PYHOLD_SRC_REGISTRY_H_
#define PYHOLD_SRC_REGISTRY_H_

#include "first.h"
//
#include "gate.h"
#include "port.h"

PH_HIDDEN_BEGIN

struct record {
  struct gate gate;

  /* Written before anyone else sees the record. */
  port_interp *interp; /* valid while READY, or CLOSED and held */
  int64_t id;
  bool is_main;

  struct pyhold_copies_v1 *copies; /* see copies.h; a reference */
  struct pyhold_copy_v1 *copy;     /* this one's entry there */

  atomic_uint refs;
  atomic_bool registered;    /* atexit has the gate */
  atomic_bool ready;         /* the same, and it was not too late */
  atomic_bool gate_lost;     /* somebody took it out of atexit again */
  atomic_bool ran_callbacks; /* pyhold's was called, with the others */
  atomic_bool dead;          /* set once, under the lock */
  atomic_bool gone;          /* the interpreter is torn down */
  /* The thread that finalizes the interpreter; 0 before. Under the lock when
   * written. */
  atomic_int_least64_t finalizing_thread_id;

  /* Under the lock. */
  struct record *next;
  struct close_call *close_calls, *running;
  struct pyhold_slot *orphans; /* slots of exited threads, with their states */
  struct ended_ids *ended;     /* what remembers the id after the end */
  pyhold_deferred *deferred_rest; /* see deferred.h */
  struct record *next_served;     /* in a list of the service thread's */

  /* See deferred.h. On lines of their own: threads that are not attached write
   * here. */
  _Alignas(CACHE_LINE) _Atomic(pyhold_deferred *) deferred;
  atomic_uint_least64_t deferred_count; /* pushed, and not run yet */
  atomic_bool served; /* it is queued for the service thread */
};

void ph_record_ref(struct record *record);
void ph_record_unref(struct record *record);

/* The record of the interpreter that the caller is attached to, made and
 * registered if need be; a new reference. OK, though its gate may be closed;
 * EFINALIZING, when it is too late to register one; EMISUSE, see ph_port_fits(); or
 * ENOMEM.
 * Requires: attached to `interp`. Runs Python code. */
pyhold_status ph_registry_adopt(port_interp *interp, struct record **out);

/* The record of a living interpreter that is READY or CLOSED, or NULL; a new
 * reference. */
struct record *ph_registry_find(port_interp *interp);
struct record *ph_registry_find_main(void);

/* Thread states that exited threads left behind are orphans: each hangs on its
 * record, in its slot, until another thread deletes it. That may have to wait
 * until the thread is gone: on 3.15, where a thread's gilstate survives until
 * then, its last destructors might still find the state.
 *
 * Unlink an exiting thread's slot, and make an orphan of it, whose state names no
 * thread any more. False: the record is DEAD, so that CPython deletes the state. Never
 * waits for the GIL. */
bool ph_registry_orphan(struct pyhold_slot *slot);
/* Delete them, or those only that no call left anything in, so that nobody's
 * destructors run. Requires: attached to the interpreter, which is protected. */
void ph_registry_reclaim(struct record *record, bool unclean_too);
/* Whether there are any; with `exited`, such as can be deleted now. */
bool ph_registry_has_orphans(struct record *record, bool exited);

/* In a child of fork(), by the thread whose slots are `self`'s. Returns what is to
 * be run with `false`, without the lock. Requires: the lock. */
pyhold_deferred *ph_registry_after_fork(const void *self);

/* See pyhold_on_close(). */
pyhold_status ph_registry_on_close(struct record *record, void (*fn)(void *),
                                   void *arg);
bool ph_registry_on_close_cancel(struct record *record, void (*fn)(void *),
                                 void *arg);

/* See pyhold_interp_lookup(). */
pyhold_status ph_registry_hold(int64_t id, struct record **out);
/* Whether an interpreter of that id was READY once, and has ended. */
bool ph_registry_has_ended(int64_t id);

/* Whether somebody took the gate out of atexit, and it is not there again. */
static inline bool ph_registry_gate_is_lost(const struct record *record) {
  /* acquire: pairs with ph_registry_gate_lost(). */
  return atomic_load_explicit(&record->gate_lost, memory_order_acquire);
}

/* --- Called by the port --- */

/* The atexit callbacks of the cookie's interpreter run: makes the calls of
 * pyhold_on_close(). Requires, of these five: attached to it. */
void ph_registry_callbacks_run(void *cookie);
bool ph_registry_has_run_callbacks(void *cookie);

/* They have run. Closes the gate, waits for what is held, unless it may not, and
 * marks the record DEAD. The main interpreter's closes all. */
void ph_registry_finalize(void *cookie, bool may_wait);

/* Somebody took the gate out of atexit, in mid-life: registers it again, later. */
void ph_registry_gate_lost(void *cookie);
void ph_registry_register_again(void *cookie);

/* The interpreter that kept the cookie is torn down. */
void ph_registry_interp_gone(void *cookie);

/* Adopt the main interpreter. Requires: attached to `main_interp`. */
void ph_registry_adopt_main(port_interp *main_interp);

/* Have that called soon, if need be, without running Python code here.
 * Requires: attached. */
void ph_registry_adopt_main_later(void);

PH_HIDDEN_END

#endif /* PYHOLD_SRC_REGISTRY_H_ */
