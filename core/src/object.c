/* Python objects from anywhere, and the public functions for what is deferred. */
#include "first.h"
//
#include <stdlib.h>

#include "deferred.h"
#include "service.h"
#include "thread.h"

/* --- What is deferred --- */

void pyhold_defer(pyhold_view *view, pyhold_deferred *node) {
  if (node == NULL) return;
  if (view == NULL) { /* as one whose interpreter has ended */
    node->next = NULL;
    ph_deferred_run_late(node);
    return;
  }
  struct record *r = view->record;
  /* The node may own the last reference to the view, and be run at once. */
  ph_record_ref(r);
  if (ph_deferred_push(r, node)) ph_service_wake(r);
  ph_record_unref(r);
}

uint64_t pyhold_deferred_count(const pyhold_view *view) {
  if (view == NULL) return 0;
  /* acquire: pairs with run_one() in deferred.c. */
  return atomic_load_explicit(&view->record->deferred_count,
                              memory_order_acquire);
}

pyhold_status pyhold_deferred_wait(pyhold_view *view, int64_t timeout_ms) {
  if (view == NULL) return PYHOLD_EMISUSE;
  struct record *r = view->record;
  /* The GIL is what the service thread waits for. */
  if (ph_thread_is_attached(r)) return PYHOLD_EMISUSE;
  const int64_t until_ms =
      timeout_ms < 0 ? INT64_MAX : ph_now_ms() + timeout_ms;
  pyhold_status status = PYHOLD_OK;
  ph_lock();
  while (pyhold_deferred_count(view) != 0) {
    int64_t left_ms = until_ms - ph_now_ms();
    if (left_ms <= 0) {
      status = PYHOLD_ETIMEDOUT;
      break;
    }
    ph_wait_for_leaver(left_ms < 60000 ? left_ms : 60000);
  }
  ph_unlock();
  return status;
}

/* --- Objects --- */

struct pyhold_object {
  pyhold_deferred node; /* when the last reference is given back */
  atomic_uint refs;
  struct _object *object;
  pyhold_view *view; /* a reference */
};

static void free_object(pyhold_deferred *node, bool attached) {
  pyhold_object *o = (pyhold_object *)node; /* its first field */
  struct _object *object = o->object;
  pyhold_view_free(o->view);
  free(o);
  if (attached) ph_port_object_release(object);
}

pyhold_status pyhold_object_new(pyhold_view *view, struct _object *object,
                                pyhold_object **out) {
  *out = NULL;
  if (object == NULL) return PYHOLD_EMISUSE;
  pyhold_object *o = view != NULL ? malloc(sizeof *o) : NULL;
  if (o == NULL) {
    ph_port_object_release(object);
    return view != NULL ? PYHOLD_ENOMEM : PYHOLD_EMISUSE;
  }
  *out = o;
  o->node.run = free_object;
  atomic_init(&o->refs, 1);
  o->object = object;
  o->view = pyhold_view_dup(view);
  return PYHOLD_OK;
}

pyhold_object *pyhold_object_dup(pyhold_object *o) {
  if (o == NULL) return NULL;
  /* relaxed: the caller has a reference. */
  atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed);
  return o;
}

void pyhold_object_free(pyhold_object *o) {
  /* acq_rel: whoever frees comes after all other users. */
  if (o == NULL ||
      atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel) != 1)
    return;
  if (ph_thread_is_attached(o->view->record))
    free_object(&o->node, /*attached=*/true);
  else
    pyhold_defer(o->view, &o->node);
}

struct _object *pyhold_object_get(const pyhold_object *o) {
  return o != NULL ? o->object : NULL;
}

pyhold_view *pyhold_object_view(const pyhold_object *o) {
  return o != NULL ? o->view : NULL;
}
