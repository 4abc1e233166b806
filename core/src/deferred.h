/* deferred: Python objects that someone gave back without being attached.
 *
 * They hang on their gate in a list that threads push to without a lock; who is
 * attached takes all of it with one exchange, so that no thread ever takes out
 * a single one, which is what makes such lists difficult.
 *
 *   list       push            take (ensure)   end (the gate)
 *   NULL, ...  pushed          all, then NULL  all, then ENDED
 *   ENDED      leaked          nothing         nothing
 *
 * Left-over subinterpreters, which the main one ends without attaching to them,
 * leak what they have.
 *
 * INV6  An object that is pushed is taken once, or the interpreter ends in a
 *       way that nobody sees (someone took the gate out of atexit).
 * INV7  Nothing is pushed behind ENDED: pushing is a compare-exchange of the
 *       head, which fails then.
 * P4    A push releases the object's fields, a take acquires them. */
#ifndef PYHOLD_SRC_DEFERRED_H_
#define PYHOLD_SRC_DEFERRED_H_

#include "registry.h"

/* Give back what was deferred. Requires: attached to the record's interpreter,
 * which is protected. Runs Python destructors, which may defer and ensure. */
void ph_deferred_take(struct record *record);

static inline bool ph_deferred_is_any(const struct record *record) {
  /* relaxed: a hint; the taking acquires. */
  return atomic_load_explicit(&record->gate.deferred, memory_order_relaxed) !=
         NULL;
}

/* End the list if it is empty. Threads: any. */
bool ph_deferred_try_end(struct record *record);

/* The same as ph_deferred_take(), and end it. */
void ph_deferred_end(struct record *record);

/* End it, and leak what is in it. Threads: any. */
void ph_deferred_leak(struct record *record);

#endif /* PYHOLD_SRC_DEFERRED_H_ */
