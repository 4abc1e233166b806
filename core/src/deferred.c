#include "deferred.h"

#include <stddef.h>

#include "thread.h"

/* How long an end runs what comes meanwhile. */
#define END_MS 200

static pyhold_deferred ended; /* a list that takes no more */
#define ENDED (&ended)

static atomic_uint_least64_t leaked;

bool ph_deferred_push(struct record *r, pyhold_deferred *node) {
  /* relaxed: a number, which whoever waits for it to fall reads again. */
  atomic_fetch_add_explicit(&r->deferred_count, 1, memory_order_relaxed);
  /* relaxed: a first guess, which the exchange checks. */
  pyhold_deferred *first =
      atomic_load_explicit(&r->deferred, memory_order_relaxed);
  do {
    if (first == ENDED) { /* INV7 */
      atomic_fetch_sub_explicit(&r->deferred_count, 1, memory_order_relaxed);
      node->next = NULL;
      ph_deferred_run_late(node);
      return false;
    }
    node->next = first;
    /* seq_cst: [P5]; it releases, too: [P4]. */
  } while (!atomic_compare_exchange_weak_explicit(
      &r->deferred, &first, node, memory_order_seq_cst, memory_order_relaxed));
  return true;
}

/* Oldest first. */
static pyhold_deferred *reversed(pyhold_deferred *first) {
  pyhold_deferred *result = NULL;
  while (first != NULL) {
    pyhold_deferred *next = first->next;
    first->next = result;
    result = first;
    first = next;
  }
  return result;
}

/* Take the oldest node. The list is taken whole, and what is not run yet is on the
 * record: so a child of fork() finds it there, whoever was running nodes. */
static pyhold_deferred *take_one(struct record *r) {
  ph_lock();
  if (r->deferred_rest == NULL) {
    /* relaxed: a first guess, which the exchange checks. */
    pyhold_deferred *first =
        atomic_load_explicit(&r->deferred, memory_order_relaxed);
    while (first != NULL && first != ENDED && /* which stays [INV7] */
           /* seq_cst: [P5]; it acquires, too: [P4]. */
           !atomic_compare_exchange_weak_explicit(&r->deferred, &first, NULL,
                                                  memory_order_seq_cst,
                                                  memory_order_relaxed)) {
    }
    if (first != ENDED) r->deferred_rest = reversed(first);
  }
  pyhold_deferred *node = r->deferred_rest;
  if (node != NULL) r->deferred_rest = node->next;
  ph_unlock();
  return node;
}

static void run_one(struct record *r, pyhold_deferred *node) {
  const unsigned forks = ph_forks;
  node->run(node, /*attached=*/true);
  ph_port_report_deferred_error();
  if (forks != ph_forks) return; /* a child, forked by `run`: counted anew */
  /* release: who waits for zero sees what was run. */
  uint64_t count =
      atomic_fetch_sub_explicit(&r->deferred_count, 1, memory_order_release);
  if (count == 1) {
    ph_lock();
    ph_wake(); /* pyhold_deferred_wait() */
    ph_unlock();
  }
}

bool ph_deferred_run(struct record *r, int64_t budget_ms) {
  const int64_t until_ms = ph_now_ms() + budget_ms;
  pyhold_deferred *node;
  while ((node = take_one(r)) != NULL) {
    run_one(r, node);
    if (ph_now_ms() > until_ms) return ph_deferred_is_any(r);
  }
  return false;
}

bool ph_deferred_is_any(struct record *r) {
  /* relaxed: a hint; the taking acquires. */
  pyhold_deferred *first =
      atomic_load_explicit(&r->deferred, memory_order_relaxed);
  if (first != NULL && first != ENDED) return true;
  ph_lock();
  bool is_any = r->deferred_rest != NULL;
  ph_unlock();
  return is_any;
}

/* End the list, and take all of it, oldest first. Requires: the lock. */
static pyhold_deferred *close_list(struct record *r) {
  /* acquire: [P4]. */
  pyhold_deferred *first =
      atomic_exchange_explicit(&r->deferred, ENDED, memory_order_acquire);
  first = first != ENDED ? reversed(first) : NULL;
  pyhold_deferred *rest = r->deferred_rest;
  r->deferred_rest = NULL;
  if (rest == NULL) return first;
  pyhold_deferred *last = rest;
  while (last->next != NULL) last = last->next;
  last->next = first;
  return rest;
}

void ph_deferred_end(struct record *r) {
  /* What runs may defer more, which runs, too. But threads may push faster than
   * it is run here: so this is not tried for ever. */
  const int64_t until_ms = ph_now_ms() + END_MS;
  pyhold_deferred *none;
  do {
    int64_t left_ms = until_ms - ph_now_ms();
    if (left_ms < 0 || ph_deferred_run(r, left_ms)) break;
    none = NULL;
    /* relaxed: nothing comes with an empty list. */
  } while (!atomic_compare_exchange_strong_explicit(&r->deferred, &none, ENDED,
                                                    memory_order_relaxed,
                                                    memory_order_relaxed) &&
           none != ENDED);
  ph_lock();
  pyhold_deferred *rest = close_list(r);
  ph_unlock();
  while (rest != NULL) {
    pyhold_deferred *node = rest;
    rest = node->next;
    run_one(r, node);
  }
}

pyhold_deferred *ph_deferred_give_up(struct record *r) {
  pyhold_deferred *first = close_list(r);
  uint64_t count = 0;
  for (pyhold_deferred *node = first; node != NULL; node = node->next) ++count;
  if (count == 0) return NULL;
  /* relaxed: nothing of it was run. */
  atomic_fetch_sub_explicit(&r->deferred_count, count, memory_order_relaxed);
  ph_wake(); /* as in run_one() */
  return first;
}

void ph_deferred_run_late(pyhold_deferred *first) {
  while (first != NULL) {
    pyhold_deferred *node = first;
    first = node->next;
    /* relaxed: it is only a number. */
    atomic_fetch_add_explicit(&leaked, 1, memory_order_relaxed);
    node->run(node, /*attached=*/false);
  }
}

void ph_deferred_after_fork(struct record *r) {
  uint64_t count = 0;
  pyhold_deferred *node =
      atomic_load_explicit(&r->deferred, memory_order_relaxed);
  for (; node != NULL && node != ENDED; node = node->next) ++count;
  for (node = r->deferred_rest; node != NULL; node = node->next) ++count;
  atomic_store_explicit(&r->deferred_count, count, memory_order_relaxed);
}

uint64_t pyhold_deferred_leaked(void) {
  return atomic_load_explicit(&leaked, memory_order_relaxed);
}
