/* PEP 788's API over the core: see pep788.h, whose macros give these functions
 * link names of their own. */
#ifndef PYHOLD_PEP788_FORCE
#define PYHOLD_PEP788_FORCE
#endif
#define PY_SSIZE_T_CLEAN
#include "../include/pyhold/pep788.h"

#include "thread.h"

/* A guard is a hold. A view is a pyhold_view, or the address of one of these: */
static char main_view;  /* of the main interpreter, whichever is when asked */
static char ended_view; /* of one that finalizes, and was never known */

static PyInterpreterView *view_at(void *place) { return place; }
static bool is_core_view(const PyInterpreterView *view) {
  return view != view_at(&main_view) && view != view_at(&ended_view);
}
static pyhold_view *core_view(PyInterpreterView *view) {
  return (pyhold_view *)view;
}
static PyInterpreterGuard *guard_of(pyhold_interp *hold) {
  return (PyInterpreterGuard *)hold;
}
static pyhold_interp *hold_of(PyInterpreterGuard *guard) {
  return (pyhold_interp *)guard;
}

/* For a view of the main interpreter: its record, a new reference; or NULL. */
static struct record *main_record(const PyInterpreterView *view) {
  struct record *r;
  bool known =
      view == view_at(&main_view) && ph_thread_adopt_main(&r) == PYHOLD_OK;
  return known ? r : NULL;
}

PyInterpreterGuard *PyInterpreterGuard_FromCurrent(void) {
  pyhold_interp *hold;
  pyhold_status status = pyhold_interp_hold(&hold);
  if (status == PYHOLD_EDETACHED)
    ph_fatal("PyInterpreterGuard_FromCurrent() on a thread that is detached");
  if (status == PYHOLD_ENOMEM)
    ph_port_raise_no_memory();
  else if (status == PYHOLD_EMISUSE)
    ph_port_raise_does_not_fit();
  else if (status != PYHOLD_OK)
    ph_port_raise_finalizing("the interpreter finalizes: too late for a guard");
  return guard_of(hold);
}

PyInterpreterGuard *PyInterpreterGuard_FromView(PyInterpreterView *view) {
  pyhold_interp *hold = NULL;
  if (is_core_view(view)) {
    if (pyhold_view_hold(core_view(view), &hold) != PYHOLD_OK) return NULL;
  } else {
    struct record *r = main_record(view);
    if (r == NULL) return NULL;
    if (ph_gate_hold(&r->gate)) hold = ph_record_hold(r);
    ph_record_unref(r);
  }
  return guard_of(hold);
}

void PyInterpreterGuard_Close(PyInterpreterGuard *guard) {
  pyhold_interp_release(hold_of(guard));
}

PyInterpreterView *PyInterpreterView_FromCurrent(void) {
  pyhold_view *view;
  switch (pyhold_view_current(&view)) {
    case PYHOLD_OK:
      return (PyInterpreterView *)view;
    case PYHOLD_EDETACHED:
      ph_fatal("PyInterpreterView_FromCurrent() on a thread that is detached");
    case PYHOLD_EFINALIZING:
      return view_at(&ended_view);
    case PYHOLD_EMISUSE:
      ph_port_raise_does_not_fit();
      return NULL;
    default:
      ph_port_raise_no_memory();
      return NULL;
  }
}

PyInterpreterView *PyInterpreterView_FromMain(void) {
  struct record *r = main_record(view_at(&main_view)); /* known from now on */
  if (r != NULL) ph_record_unref(r);
  return view_at(&main_view);
}

void PyInterpreterView_Close(PyInterpreterView *view) {
  if (is_core_view(view)) pyhold_view_free(core_view(view));
}

/* A token is a handle, in whatever order it is released. */
PyThreadStateToken *PyThreadState_Ensure(PyInterpreterGuard *guard) {
  struct record *r = ph_hold_record(hold_of(guard));
  pyhold_frame *handle;
  pyhold_status status =
      ph_thread_enter(&handle, r, NULL, 0, LEANING, PYHOLD_KEEP);
  return status == PYHOLD_OK ? handle : NULL;
}

PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *view) {
  const bool keeps = is_core_view(view); /* its record */
  struct record *r = keeps ? core_view(view)->record : main_record(view);
  if (r == NULL) return NULL;
  pyhold_frame *handle;
  pyhold_status status =
      ph_thread_enter(&handle, r, NULL, 0, STRICT, PYHOLD_KEEP);
  if (!keeps) ph_record_unref(r);
  return status == PYHOLD_OK ? handle : NULL;
}

void PyThreadState_Release(PyThreadStateToken *token) {
  if (token == NULL) ph_fatal("PyThreadState_Release(NULL)");
  ph_thread_leave(token, DROP_ERROR);
}
