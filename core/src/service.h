/* service: the one thread of pyhold's own, for what is deferred and for the
 * states of threads that have exited.
 *
 *   state     how it is entered                      leaves it
 *   NONE      at first; it ended                     work, and it may be had
 *   RUNNING   started by whoever brought work        LINGER_MS without work;
 *                                                    a fork
 *
 * It is started when there is work, and ends soon after the last of it. It is
 * named "pyhold", receives no signals but those of its own faults, and has the
 * default scheduling, whoever started it. It enters an interpreter as every native thread does, through the
 * gate, with a state of its own that it deletes when it leaves: so it shows in
 * no dump while it has nothing to do, and delays no finalization but by what it
 * runs just then.
 *
 * Where it cannot be had (the program forbids it, the system refuses another
 * thread), gate.help_wanted is set: then the next outermost ensure does a part
 * of the work; and who brings more work tries again.
 *
 * Fork. Before it the thread is ended, if it has nothing to do, so that os.fork()
 * sees one thread less; if it may be about to have nothing, it gets 2 ms. The child has none, and starts one when there is work.
 *
 * Its state is under the lock. Nobody else waits for it with
 * the GIL. */
#ifndef PYHOLD_SRC_SERVICE_H_
#define PYHOLD_SRC_SERVICE_H_

#include "registry.h"

PH_HIDDEN_BEGIN

/* There is something to do for a record, which the caller keeps. Never waits for
 * the GIL. Threads: any. */
void ph_service_wake(struct record *record);

/* Called once, before the first wake. */
void ph_service_init(void);

/* Do a part of the work. Requires: attached to the record's interpreter, which is
 * protected. Runs Python code. */
void ph_service_help_now(struct record *record);

static inline void ph_service_help(struct record *record) {
  /* relaxed: a hint. */
  if (atomic_load_explicit(&record->gate.help_wanted, memory_order_relaxed))
    ph_service_help_now(record);
}

PH_HIDDEN_END

#endif /* PYHOLD_SRC_SERVICE_H_ */
