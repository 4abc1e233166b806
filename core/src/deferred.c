#include "deferred.h"

#include <stdlib.h>

#include "thread.h"

struct pyhold_object {
  atomic_uint refs;
  struct _object *object;
  pyhold_view *view;          /* a reference */
  struct pyhold_object *next; /* while it is deferred */
};

static struct pyhold_object ended; /* a list that takes no more */
#define ENDED (&ended)

static atomic_uint_least64_t leaked;

static struct record *record_of(const pyhold_object *o) {
  return ph_view_record(o->view);
}

static void free_object(pyhold_object *o) {
  pyhold_view_free(o->view);
  free(o);
}

static void leak(pyhold_object *o) {
  /* relaxed: it is only a number. */
  atomic_fetch_add_explicit(&leaked, 1, memory_order_relaxed);
  free_object(o);
}

/* False: the list has ended. */
static bool push(pyhold_object *o) {
  _Atomic(pyhold_object *) *list = &record_of(o)->gate.deferred;
  /* relaxed: a first guess, which the exchange checks. */
  pyhold_object *first = atomic_load_explicit(list, memory_order_relaxed);
  do {
    if (first == ENDED) return false; /* INV7 */
    o->next = first;
    /* release: [P4]. */
  } while (!atomic_compare_exchange_weak_explicit(
      list, &first, o, memory_order_release, memory_order_relaxed));
  return true;
}

/* Requires: attached, as ph_deferred_take() does. */
static void give_back(pyhold_object *o) {
  struct _object *object = o->object;
  free_object(o);
  ph_port_object_release(object);
}

static void for_each(pyhold_object *first, void (*each)(pyhold_object *)) {
  while (first != NULL && first != ENDED) {
    pyhold_object *o = first;
    first = o->next;
    each(o);
  }
}

void ph_deferred_take(struct record *r) {
  /* relaxed: a first guess, which the exchange checks. */
  pyhold_object *first =
      atomic_load_explicit(&r->gate.deferred, memory_order_relaxed);
  while (first != NULL && first != ENDED && /* which stays [INV7] */
         /* acquire: [P4]. */
         !atomic_compare_exchange_weak_explicit(&r->gate.deferred, &first, NULL,
                                                memory_order_acquire,
                                                memory_order_relaxed)) {
  }
  for_each(first, give_back);
}

bool ph_deferred_try_end(struct record *r) {
  pyhold_object *none = NULL;
  /* relaxed: nothing comes with an empty list. */
  return atomic_compare_exchange_strong_explicit(&r->gate.deferred, &none,
                                                 ENDED, memory_order_relaxed,
                                                 memory_order_relaxed) ||
         none == ENDED;
}

void ph_deferred_end(struct record *r) {
  while (!ph_deferred_try_end(r)) ph_deferred_take(r);
}

void ph_deferred_leak(struct record *r) {
  /* acquire: [P4]. */
  for_each(
      atomic_exchange_explicit(&r->gate.deferred, ENDED, memory_order_acquire),
      leak);
}

pyhold_status pyhold_object_new(pyhold_view *view, struct _object *object,
                                pyhold_object **out) {
  pyhold_object *o = malloc(sizeof *o);
  *out = o;
  if (o == NULL) {
    ph_port_object_release(object);
    return PYHOLD_ENOMEM;
  }
  atomic_init(&o->refs, 1);
  o->object = object;
  o->view = pyhold_view_dup(view);
  return PYHOLD_OK;
}

pyhold_object *pyhold_object_dup(pyhold_object *o) {
  /* relaxed: the caller has a reference. */
  atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed);
  return o;
}

void pyhold_object_free(pyhold_object *o) {
  /* acq_rel: whoever frees comes after all other users. */
  if (o == NULL ||
      atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel) != 1)
    return;
  if (ph_thread_is_attached(record_of(o))) {
    give_back(o);
  } else if (!push(o)) {
    leak(o);
  }
}

struct _object *pyhold_object_get(const pyhold_object *o) { return o->object; }

pyhold_view *pyhold_object_view(const pyhold_object *o) { return o->view; }

uint64_t pyhold_objects_leaked(void) {
  return atomic_load_explicit(&leaked, memory_order_relaxed);
}
