/* thread: what pyhold keeps for each OS thread, and ensure and release on it.
 *
 * All that a thread has in force lives in the thread's own memory, never on its
 * stack: greenlets move stacks, fibers have several. What the caller gets is a
 * handle of one word: it says what is to be undone, and on which slot or frame.
 *
 *   attached to      detached state   entering does            handle, leaving undoes
 *   I                -                nothing (nests)          slot: nothing
 *   nothing          of I             attach it                slot (*): detach it
 *   nothing          none             make one, attach it      slot (*): detach it (**)
 *   J                of I             detach J, attach it      frame: detach, attach J
 *   J                none             make, detach J, attach   frame: (**), attach J
 *
 * (*)  Or a frame, where the slot has an ensure of this kind in force already,
 *      where PyGILState would forget another state, and while the thread exits.
 * (**) And delete it, unless it is to last: INV5.
 *
 * Handles of a slot only count. So they may be left in any order, as greenlets
 * and fibers leave them. What attached a state, or set one aside, is left only
 * while that state is attached, or nothing is: anything else would bring back
 * the wrong one, and is fatal.
 *
 * An ensure protects I by its slot, unless it is LEANING: then it leaves the
 * protection to a hold. What nests in it may protect I even when the gate has
 * closed, for as long as anything holds that (ph_gate_join()).
 *
 * INV4  slot.active is true exactly while slot.ensures is greater than the
 *       number of bits in slot.daemons. slot.ensures counts the owner's handles
 *       that protect the slot's interpreter, a frame's `restore` included.
 * INV5  slot.state, which pyhold made, exists while somebody uses it, or
 *       slot.persistent or slot.keep say so. Whoever takes away the last reason
 *       deletes it, attached to it, while it still counts as a user: so Python
 *       code run by the clearing nests under it. Then there are, after the
 *       thread's exit, the orphan's next owners (registry.h), or the
 *       interpreter's end, which is CPython's.
 *
 * Who uses a state is counted where everybody can see it: in its public
 * gilstate_counter, which PyGILState and other copies of pyhold count in, too.
 * A kept state has PH_KEPT there while nobody uses it. A state that lasts for a
 * PersistentThreadState has no such mark, so that nobody clears it.
 *
 * INV8  Each ensure that attached a state counts 1 in it. The others of a slot
 *       count 1 together (slot.counted) in slot.used: the state that was attached
 *       when the first of them came. Only a state that is merely to be bound
 *       again as gilstate is not counted: it is not in use.
 * INV9  A state with the count PH_KEPT holds nothing that a call left in it, as
 *       far as that call went through pyhold: the ensure whose leaving brings the
 *       count back to PH_KEPT has cleared it, attached. Others may have used it
 *       since (PyGILState_Ensure, PyThreadState_SetAsyncExc): so the ensure that
 *       finds PH_KEPT looks again, and clears what is there. */
#ifndef PYHOLD_SRC_THREAD_H_
#define PYHOLD_SRC_THREAD_H_

#include "registry.h"

PH_HIDDEN_BEGIN

/* The record of the interpreter that the caller is attached to, registered if
 * need be; a new reference. EDETACHED, or what ph_registry_adopt() says. */
pyhold_status ph_thread_adopt_current(struct record **out);

/* The same for the main interpreter. Attached to it, or not at all if it is known
 * already; else ENOINTERP. */
pyhold_status ph_thread_adopt_main(struct record **out);

/* Whether the caller is attached to the record's interpreter, and that is not
 * torn down. */
bool ph_thread_is_attached(const struct record *record);

/* A hold is its record, counted in the record's gate (see registry.h), and in its
 * low bits how many forks the process had seen when it was made. A hold of before
 * the last fork is of threads that do not exist: nothing counts it any more. */
enum { PH_FORKS = CACHE_LINE - 1 };
extern unsigned
    ph_forks; /* of this process and its parents, modulo PH_FORKS + 1 */

static inline struct record *ph_hold_record(const pyhold_interp *hold) {
  return (struct record *)((uintptr_t)hold & ~(uintptr_t)PH_FORKS);
}
static inline pyhold_interp *ph_record_hold(struct record *record) {
  return (pyhold_interp *)((uintptr_t)record + ph_forks);
}
static inline bool ph_hold_counts(const pyhold_interp *hold) {
  return ((uintptr_t)hold & PH_FORKS) == ph_forks;
}

struct pyhold_view {
  atomic_uint refs;
  pyhold_keep keep;
  struct record *record; /* a reference */
};

enum entry {
  ASK,     /* at the gate */
  STRICT,  /* the same; refused to the thread that finalizes, as by CPython */
  PINNED,  /* the caller has a hold, at least until the entry is done */
  LEANING, /* the same; and the ensure is to protect nothing by itself, so that
              giving back that hold lets the interpreter go */
};

/* Ensure, for a record that the caller keeps alive. */
pyhold_status ph_thread_enter(pyhold_frame **out, struct record *record,
                              const char *file, int line, enum entry entry,
                              pyhold_keep keep);

/* What becomes of an exception that is pending when the thread's outermost use
 * of a kept state ends. */
enum left_error { REPORT_ERROR, DROP_ERROR, KEEP_ERROR };

/* Undo it. */
void ph_thread_leave(pyhold_frame *handle, enum left_error error);

/* The same for pyhold_thread_ensure(), whose handles the thread keeps. */
pyhold_status ph_thread_ensure(struct record *record, enum entry entry,
                               pyhold_keep keep);

/* The record of the interpreter that the thread is attached to, or has let go of:
 * a new reference, or NULL if there is none. See pyhold_view_of_thread(). */
pyhold_status ph_thread_origin(struct record **out);

/* In a child of fork(), whose only thread calls it. Returns what is to be run with
 * `false`, without the lock. Requires: the lock. */
pyhold_deferred *ph_thread_after_fork(void);

/* See pyhold_thread_state_new(). */
pyhold_status ph_thread_state_new(struct record *record,
                                  pyhold_thread_state **out);

PH_HIDDEN_END

#endif /* PYHOLD_SRC_THREAD_H_ */
