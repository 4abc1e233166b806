/* deferred: what is to be done attached to an interpreter, by somebody, later.
 *
 * Nodes hang on their record in a list that threads push to without a lock. Who
 * runs them takes all of it with one exchange, so that no thread ever takes out
 * a single one, which is what makes such lists difficult. What a runner does not
 * get to goes to `rest`, which comes first the next time: so nodes run in the
 * order in which they came, as long as one thread at a time runs them.
 *
 *   list       push              run (service, help)   end (the gate)
 *   NULL, ...  pushed            all, then NULL        all, then ENDED
 *   ENDED      run with `false`  nothing               nothing
 *
 * Left-over subinterpreters, which the main one ends without attaching to them,
 * have theirs run with `false`, too.
 *
 * INV6  A node that is pushed is run once, or the interpreter ends in a way that
 *       nobody sees (someone took the gate out of atexit).
 * INV7  Nothing is pushed behind ENDED: pushing is a compare-exchange of the
 *       head, which fails then.
 * P4    A push releases what the pusher wrote, a take acquires it.
 * P5    A pusher pushes, then sets record.served and, if it was not set, queues
 *       the record; the service thread takes the record from the queue, clears
 *       record.served, then takes the list. All four are read-modify-writes or
 *       seq_cst: either the service thread sees the node, or the pusher sees
 *       record.served cleared, and queues the record again. */
#ifndef PYHOLD_SRC_DEFERRED_H_
#define PYHOLD_SRC_DEFERRED_H_

#include "registry.h"

PH_HIDDEN_BEGIN

/* Push a node, or run it with `false`, on the spot. Threads: any. Returns whether
 * it was pushed: the service thread is to be told then. */
bool ph_deferred_push(struct record *record, pyhold_deferred *node);

/* Run nodes for about `budget_ms`. Returns whether some are left. Requires:
 * attached to the record's interpreter, which is protected. Runs Python code,
 * which may defer and ensure. */
bool ph_deferred_run(struct record *record, int64_t budget_ms);

/* Whether there are any to run. Threads: any. */
bool ph_deferred_is_any(struct record *record);

/* Run all that is pushed before, and end the list; what comes meanwhile, too, if
 * it does not come without end. Requires: as ph_deferred_run(). */
void ph_deferred_end(struct record *record);

/* In a child of fork(): count anew. Requires: the lock. */
void ph_deferred_after_fork(struct record *record);

/* End the list. What is in it is for ph_deferred_run_late(). Requires: the lock.
 * Threads: any. */
pyhold_deferred *ph_deferred_give_up(struct record *record);

/* Run nodes with `false`. Requires: not the lock. */
void ph_deferred_run_late(pyhold_deferred *first);

PH_HIDDEN_END

#endif /* PYHOLD_SRC_DEFERRED_H_ */
