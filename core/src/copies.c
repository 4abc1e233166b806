#include "copies.h"

#include <stdlib.h>

#include "registry.h"

static void free_copy(struct pyhold_copy_v1 *copy) { free(copy); }

bool ph_copies_join(struct record *r) {
  struct pyhold_copies_v1 *mine = malloc(sizeof *mine);
  struct pyhold_copy_v1 *copy = malloc(sizeof *copy);
  struct pyhold_copies_v1 *all = NULL;
  if (mine != NULL && copy != NULL) {
    *mine = (struct pyhold_copies_v1){.size = sizeof *mine};
    all = ph_port_shared(r->interp, "pyhold copies v1", mine);
  }
  if (all != mine) free(mine);
  if (all == NULL) {
    free(copy);
    return false;
  }
  /* relaxed: the copy that made it has a reference for as long as its interpreter
   * lives, and the caller is attached to that. */
  atomic_fetch_add_explicit(&all->refs, 1, memory_order_relaxed);
  *copy = (struct pyhold_copy_v1){
      .size = sizeof *copy, .holds = ph_thread_holds, .free = free_copy};
  copy->next = atomic_load_explicit(&all->first, memory_order_relaxed);
  /* release: pairs with the walk in ph_copies_hold(). */
  while (!atomic_compare_exchange_weak_explicit(&all->first, &copy->next, copy,
                                                memory_order_release,
                                                memory_order_relaxed)) {
  }
  r->copies = all;
  r->copy = copy;
  return true;
}

void ph_copies_leave(struct record *r) {
  struct pyhold_copies_v1 *all = r->copies;
  /* acq_rel: whoever frees comes after all other users. */
  if (all == NULL ||
      atomic_fetch_sub_explicit(&all->refs, 1, memory_order_acq_rel) != 1)
    return;
  struct pyhold_copy_v1 *copy =
      atomic_load_explicit(&all->first, memory_order_relaxed);
  while (copy != NULL) {
    struct pyhold_copy_v1 *next = copy->next;
    copy->free(copy); /* by the copy that made it */
    copy = next;
  }
  free(all);
}

bool ph_copies_are_several(const struct record *r) {
  /* relaxed: a copy that came this moment holds nothing for this thread. */
  return r->copies != NULL &&
         atomic_load_explicit(&r->copies->first, memory_order_relaxed)->next !=
             NULL;
}

bool ph_copies_hold(const struct record *r) {
  if (r->copies == NULL) return false;
  /* acquire: pairs with ph_copies_join(). */
  const struct pyhold_copy_v1 *copy =
      atomic_load_explicit(&r->copies->first, memory_order_acquire);
  for (; copy != NULL; copy = copy->next)
    if (copy != r->copy && copy->holds(copy)) return true;
  return false;
}
