/* thread: what pyhold keeps for each OS thread, and ensure and release on it.
 *
 * A thread has a stack of frames, newest first: what is in force. An ensure
 * finds the thread in one of five ways:
 *
 *   attached to      detached state   entering does            leaving undoes
 *   I                -                nothing (nests)          nothing
 *   nothing          of I             attach it                detach it
 *   nothing          none             make one, attach it      detach it (*)
 *   J                of I             detach J, attach it      detach, attach J
 *   J                none             make, detach J, attach   (*), attach J
 *
 * (*) and delete it, unless it is to last: see INV5.
 *
 * An ensure protects I by its slot, unless an older frame does: the frame that
 * wrote slot.active (TOOK) is the one that clears it. One that is LEANING leaves
 * the protection to a hold; what nests in it may protect I even when the gate
 * has closed, for as long as anything holds that (ph_gate_join()).
 *
 * INV4  slot.active is true exactly while one frame of the slot's owner has
 *       TOOK for it, or RESTORE_TOOK for it as restore_slot.
 * INV5  slot.state, which pyhold made, exists while slot.uses (frames that
 *       attached it), slot.persistent or slot.keep say so: whoever takes away
 *       the last reason deletes it, attached to it, before its frame is off
 *       the stack, so that Python code run by the clearing nests under it.
 *       Then there are, after the thread's exit, the orphan's next owners
 *       (registry.h), or the interpreter's end, which is CPython's. */
#ifndef PYHOLD_SRC_THREAD_H_
#define PYHOLD_SRC_THREAD_H_

#include "registry.h"

/* The record of the interpreter that the caller is attached to, registered if
 * need be; a new reference. EDETACHED, or what ph_registry_adopt() says. */
pyhold_status ph_thread_adopt_current(struct record **out);

/* The same for the main interpreter. Attached to it, or not at all if it is known
 * already; else ENOINTERP. */
pyhold_status ph_thread_adopt_main(struct record **out);

/* Whether the caller is attached to the record's interpreter, and that is not
 * torn down. */
bool ph_thread_is_attached(const struct record *record);

/* A hold is its record, counted in the record's gate: see registry.h. */
static inline struct record *ph_hold_record(const pyhold_interp *hold) {
  return (struct record *)(uintptr_t)hold;
}
static inline pyhold_interp *ph_record_hold(struct record *record) {
  return (pyhold_interp *)record;
}

/* The record of a view, which keeps it. */
struct record *ph_view_record(const pyhold_view *view);

enum entry {
  ASK,     /* at the gate */
  PINNED,  /* the caller has a hold, at least until the entry is done */
  LEANING, /* the same; and the frame is to protect nothing by itself, so that
              giving back that hold lets the interpreter go */
};

/* Enter a frame for a record that the caller keeps alive. */
pyhold_status ph_thread_enter(pyhold_frame *frame, struct record *record,
                              const char *file, int line, enum entry entry,
                              pyhold_keep keep);

/* The same with a frame of the thread's own, for pyhold_thread_ensure(). */
pyhold_status ph_thread_ensure(struct record *record, enum entry entry,
                               pyhold_keep keep);
/* Undo it. `call` is what the fatal error says if there is nothing to undo. With
 * `forget_error` the thread's next ensure does not find an exception that this
 * one leaves pending in a state that pyhold keeps. */
void ph_thread_release(const char *call, bool forget_error);

/* See pyhold_thread_state_new(). */
pyhold_status ph_thread_state_new(struct record *record,
                                  pyhold_thread_state **out);

#endif /* PYHOLD_SRC_THREAD_H_ */
