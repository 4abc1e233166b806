#include "deferred.h"

#include <stddef.h>

#include "thread.h"

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

/* Take what is left of the last time, else the list, oldest first. */
static pyhold_deferred *take(struct record *r) {
  ph_lock();
  pyhold_deferred *first = r->deferred_rest;
  r->deferred_rest = NULL;
  ph_unlock();
  if (first != NULL) return first;
  /* relaxed: a first guess, which the exchange checks. */
  first = atomic_load_explicit(&r->deferred, memory_order_relaxed);
  while (first != NULL && first != ENDED && /* which stays [INV7] */
         /* seq_cst: [P5]; it acquires, too: [P4]. */
         !atomic_compare_exchange_weak_explicit(&r->deferred, &first, NULL,
                                                memory_order_seq_cst,
                                                memory_order_relaxed)) {
  }
  return first != ENDED ? reversed(first) : NULL;
}

static void done(struct record *r) {
  /* release: who waits for zero sees what was run. */
  if (atomic_fetch_sub_explicit(&r->deferred_count, 1, memory_order_release) ==
      1) {
    ph_lock();
    ph_wake(); /* pyhold_deferred_wait() */
    ph_unlock();
  }
}

static uint64_t length(const pyhold_deferred *node) {
  uint64_t nodes = 0;
  for (; node != NULL && node != ENDED; node = node->next) ++nodes;
  return nodes;
}

bool ph_deferred_run(struct record *r, int64_t budget_ms) {
  unsigned forks = ph_forks;
  const int64_t until_ms = ph_now_ms() + budget_ms;
  pyhold_deferred *first;
  while ((first = take(r)) != NULL) {
    do {
      pyhold_deferred *node = first;
      first = node->next;
      node->run(node, /*attached=*/true);
      ph_port_report_deferred_error();
      if (forks != ph_forks) {
        /* This is a child, forked by `run`: ph_deferred_after_fork() could not
         * see what was taken. */
        forks = ph_forks;
        atomic_fetch_add_explicit(&r->deferred_count, 1 + length(first),
                                  memory_order_relaxed);
      }
      done(r);
    } while (first != NULL && ph_now_ms() <= until_ms);
    if (first == NULL) continue;
    pyhold_deferred *last = first;
    while (last->next != NULL) last = last->next;
    ph_lock();
    last->next = r->deferred_rest;
    r->deferred_rest = first;
    ph_unlock();
    return true;
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

void ph_deferred_end(struct record *r) {
  pyhold_deferred *none;
  do {
    while (ph_deferred_run(r, INT64_MAX / 2)) {
    }
    none = NULL;
    /* relaxed: nothing comes with an empty list. */
  } while (!atomic_compare_exchange_strong_explicit(&r->deferred, &none, ENDED,
                                                    memory_order_relaxed,
                                                    memory_order_relaxed) &&
           none != ENDED);
}

void ph_deferred_after_fork(struct record *r) {
  /* relaxed, both: there is no other thread. */
  atomic_store_explicit(
      &r->deferred_count,
      length(atomic_load_explicit(&r->deferred, memory_order_relaxed)) +
          length(r->deferred_rest),
      memory_order_relaxed);
}

pyhold_deferred *ph_deferred_give_up(struct record *r) {
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

void ph_deferred_run_late(pyhold_deferred *first) {
  while (first != NULL) {
    pyhold_deferred *node = first;
    first = node->next;
    /* relaxed: it is only a number. */
    atomic_fetch_add_explicit(&leaked, 1, memory_order_relaxed);
    node->run(node, /*attached=*/false);
  }
}

uint64_t pyhold_deferred_leaked(void) {
  return atomic_load_explicit(&leaked, memory_order_relaxed);
}
