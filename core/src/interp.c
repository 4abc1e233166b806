/* Holds and views: the public functions over the registry. */
#include "first.h"
//
#include <stdlib.h>

#include "thread.h"

/* --- Holds --- */

pyhold_status pyhold_interp_hold(pyhold_interp **out) {
  struct record *r;
  *out = NULL;
  pyhold_status status = ph_thread_adopt_current(&r);
  if (status != PYHOLD_OK) return status;
  if (ph_gate_hold(&r->gate))
    *out = ph_record_hold(r);
  else
    status = PYHOLD_EFINALIZING;
  ph_record_unref(r);
  return status;
}

pyhold_status pyhold_interp_lookup(int64_t id, pyhold_interp **out) {
  struct record *r;
  pyhold_status status = ph_registry_hold(id, &r);
  *out = status == PYHOLD_OK ? ph_record_hold(r) : NULL;
  return status;
}

pyhold_interp *pyhold_interp_dup(pyhold_interp *hold) {
  if (hold != NULL && ph_hold_counts(hold))
    ph_gate_dup(&ph_hold_record(hold)->gate);
  return hold;
}

void pyhold_interp_release(pyhold_interp *hold) {
  if (hold != NULL && ph_hold_counts(hold))
    ph_gate_drop(&ph_hold_record(hold)->gate);
}

/* What a hold of before a fork is worth: it has to ask. */
static enum entry entry_of(const pyhold_interp *hold) {
  return ph_hold_counts(hold) ? PINNED : ASK;
}

int64_t pyhold_interp_id(const pyhold_interp *hold) {
  return hold != NULL ? ph_hold_record(hold)->id : -1;
}

struct _is *pyhold_interp_state(const pyhold_interp *hold) {
  return hold != NULL ? ph_hold_record(hold)->interp : NULL;
}

pyhold_status pyhold_thread_ensure(pyhold_interp *hold) {
  if (hold == NULL) return PYHOLD_EMISUSE;
  return ph_thread_ensure(ph_hold_record(hold), entry_of(hold), PYHOLD_KEEP);
}

pyhold_status pyhold_frame_enter(pyhold_frame **out, pyhold_interp *hold,
                                 const char *file, int line) {
  *out = NULL;
  if (hold == NULL) return PYHOLD_EMISUSE;
  return ph_thread_enter(out, ph_hold_record(hold), file, line, entry_of(hold),
                         PYHOLD_KEEP);
}

/* --- Views --- */

/* Takes over the reference to `r`. */
static pyhold_status make_view(struct record *r, pyhold_keep keep,
                               pyhold_view **out) {
  pyhold_view *view = malloc(sizeof *view);
  if (view == NULL) {
    ph_record_unref(r);
    return PYHOLD_ENOMEM;
  }
  atomic_init(&view->refs, 1);
  view->keep = keep;
  view->record = r;
  *out = view;
  return PYHOLD_OK;
}

pyhold_status pyhold_view_current(pyhold_view **out) {
  struct record *r;
  *out = NULL;
  pyhold_status status = ph_thread_adopt_current(&r);
  return status == PYHOLD_OK ? make_view(r, PYHOLD_KEEP, out) : status;
}

/* A module that is imported makes the main interpreter known. So code on any
 * thread can ask for that, although nobody has made a view before. Python code
 * cannot run here: the dynamic linker's lock is held. */
__attribute__((constructor)) static void loaded(void) {
  port_state *maybe; /* 3.11: a subinterpreter's; not of use */
  if (ph_port_current(&maybe) != NULL) ph_registry_adopt_main_later();
}

pyhold_status pyhold_view_main(pyhold_view **out) {
  struct record *r;
  *out = NULL;
  pyhold_status status = ph_thread_adopt_main(&r);
  return status == PYHOLD_OK ? make_view(r, PYHOLD_KEEP, out) : status;
}

pyhold_status pyhold_view_of_thread(pyhold_view *fallback, pyhold_view **out) {
  *out = NULL;
  struct record *r;
  pyhold_status status = ph_thread_origin(&r);
  if (status != PYHOLD_OK) return status;
  if (r != NULL) return make_view(r, PYHOLD_KEEP, out);
  if (fallback == NULL) return PYHOLD_ENOINTERP;
  *out = pyhold_view_dup(fallback);
  return PYHOLD_OK;
}

pyhold_status pyhold_view_with(pyhold_view *view, pyhold_keep keep,
                               pyhold_view **out) {
  *out = NULL;
  if (view == NULL || (keep != PYHOLD_KEEP && keep != PYHOLD_PER_CALL))
    return PYHOLD_EMISUSE;
  ph_record_ref(view->record);
  return make_view(view->record, keep, out);
}

bool pyhold_view_is_attached(const pyhold_view *view) {
  return view != NULL && ph_thread_is_attached(view->record);
}

bool pyhold_view_is_closed(const pyhold_view *view) {
  /* relaxed: a hint. Nothing is read on the strength of it. */
  return view == NULL ||
         atomic_load_explicit(&view->record->gate.closed, memory_order_relaxed);
}

pyhold_view *pyhold_view_dup(pyhold_view *view) {
  if (view == NULL) return NULL;
  /* relaxed: the caller has a reference. */
  atomic_fetch_add_explicit(&view->refs, 1, memory_order_relaxed);
  return view;
}

void pyhold_view_free(pyhold_view *view) {
  /* acq_rel: whoever frees comes after all other users. */
  if (view == NULL ||
      atomic_fetch_sub_explicit(&view->refs, 1, memory_order_acq_rel) != 1)
    return;
  ph_record_unref(view->record);
  free(view);
}

int64_t pyhold_view_id(const pyhold_view *view) {
  return view != NULL ? view->record->id : -1;
}

pyhold_status pyhold_view_hold(pyhold_view *view, pyhold_interp **out) {
  *out = NULL;
  if (view == NULL) return PYHOLD_EMISUSE;
  bool held = ph_gate_hold(&view->record->gate);
  if (held) *out = ph_record_hold(view->record);
  return held ? PYHOLD_OK : PYHOLD_EFINALIZING;
}

pyhold_status pyhold_thread_ensure_view(pyhold_view *view) {
  if (view == NULL) return PYHOLD_EMISUSE;
  return ph_thread_ensure(view->record, ASK, view->keep);
}

pyhold_status pyhold_thread_state_new(pyhold_view *view,
                                      pyhold_thread_state **out) {
  *out = NULL;
  return view != NULL ? ph_thread_state_new(view->record, out) : PYHOLD_EMISUSE;
}

pyhold_status pyhold_on_close(pyhold_view *view, void (*fn)(void *),
                              void *arg) {
  if (view == NULL || fn == NULL) return PYHOLD_EMISUSE;
  return ph_registry_on_close(view->record, fn, arg);
}

bool pyhold_on_close_cancel(pyhold_view *view, void (*fn)(void *), void *arg) {
  return view != NULL && fn != NULL &&
         ph_registry_on_close_cancel(view->record, fn, arg);
}
