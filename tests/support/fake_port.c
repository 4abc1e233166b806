#include "fake_port.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "gate.h"
#include "port.h"
#include "registry.h"

struct _is {
  int64_t id;
  bool is_main;
  struct _ts *first; /* of the thread that began it */
  _Atomic(void *) cookie;
  atomic_int gates; /* callbacks registered with atexit */
  atomic_int states;
  struct _ts *list; /* of them; under list_lock */
  atomic_int objects;
  atomic_bool ended;
  struct _is *next;
};

struct _object {
  struct _is *interp;
  atomic_bool released;
  struct _object *next; /* never freed: some are leaked on purpose */
};

struct _ts {
  struct _is *interp;
  atomic_bool attached;
  struct _ts *before; /* what fake_interp_begin() set aside */
  int users;
  bool dirty, error;         /* what a call left in it: fake_leave_value() */
  struct _ts *next, **pprev; /* in interp->list */
};

static _Thread_local struct _ts *current;
static _Thread_local struct _ts *gilstate;
static _Thread_local bool no_memory, too_late;
static atomic_int_least64_t next_id;
static _Atomic(struct _is *) main_interp, all_interps;
static atomic_bool interrupted, exit_deletes_state;
static _Thread_local void (*before_cookie)(void *);
static _Thread_local void *before_cookie_arg;
static _Thread_local void (*before_attach)(void *), (*before_detach)(void *);
static _Thread_local void *before_attach_arg, *before_detach_arg;
static void (*_Atomic on_delete)(void *);
static void *_Atomic on_delete_arg;

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;

static void broken(const char *rule) {
  fprintf(stderr, "fake_port: %s\n", rule);
  abort();
}

/* --- The port --- */

bool ph_port_fits(void) { return true; }

port_state *ph_port_current(port_state **maybe) {
  *maybe = NULL;
  return current;
}
bool ph_port_maybe_is_plausible(port_state *maybe) { return maybe != NULL; }
port_state *ph_port_gilstate(void) { return gilstate; }
port_state *ph_port_displaced_by(port_state *next) {
  return gilstate != next ? gilstate : NULL;
}
void ph_port_forget_gilstate(port_interp *interp) {
  (void)interp;
  gilstate = NULL;
}
port_interp *ph_port_state_interp(port_state *state) { return state->interp; }

static void run_destructor(void) {
  struct _ts *state = current;
  void (*fn)(void *) = atomic_load(&on_delete);
  if (fn != NULL) fn(atomic_load(&on_delete_arg));
  if (current != state) broken("a destructor changed what is attached");
}

/* Requires: list_lock. */
static void free_state_locked(struct _ts *state) {
  *state->pprev = state->next;
  if (state->next != NULL) state->next->pprev = state->pprev;
  atomic_fetch_sub(&state->interp->states, 1);
  free(state);
}

static void free_state(struct _ts *state) {
  pthread_mutex_lock(&list_lock);
  free_state_locked(state);
  pthread_mutex_unlock(&list_lock);
}

port_state *ph_port_state_new(port_interp *interp) {
  if (atomic_load(&interp->ended)) broken("a state for an ended interpreter");
  if (no_memory) return NULL;
  port_state *state = calloc(1, sizeof *state);
  state->interp = interp;
  state->users = 1;
  pthread_mutex_lock(&list_lock);
  state->pprev = &interp->list;
  state->next = interp->list;
  if (state->next != NULL) state->next->pprev = &state->next;
  interp->list = state;
  pthread_mutex_unlock(&list_lock);
  atomic_fetch_add(&interp->states, 1);
  if (gilstate == NULL) gilstate = state;
  return state;
}

void ph_port_attach(port_state *state) {
  if (current != NULL) broken("attach while attached");
  void (*fn)(void *) = before_attach;
  before_attach = NULL;
  if (fn != NULL) fn(before_attach_arg);
  if (atomic_load(&state->interp->ended)) broken("attach after the end");
  if (atomic_exchange(&state->attached, true)) broken("attached twice");
  current = gilstate = state;
}

void ph_port_detach(port_state *state) {
  if (current != state) broken("detach of what is not attached");
  void (*fn)(void *) = before_detach;
  before_detach = NULL;
  if (fn != NULL) fn(before_detach_arg);
  atomic_store(&state->attached, false);
  current = NULL;
}

void ph_port_state_delete_attached(port_state *state) {
  if (current != state) broken("delete of what is not attached");
  run_destructor();
  current = NULL;
  if (gilstate == state) gilstate = NULL;
  free_state(state);
}

void ph_port_state_delete_orphan(port_state *state) {
  if (current == NULL || current->interp != state->interp)
    broken("deletes an orphan while not attached to its interpreter");
  if (atomic_load(&state->attached)) broken("an orphan is attached");
  free_state(state);
}

bool ph_port_exit_deletes_state(void) {
  return atomic_load(&exit_deletes_state);
}

void ph_port_object_release(struct _object *object) {
  if (current == NULL || current->interp != object->interp)
    broken("an object is released while not attached to its interpreter");
  if (atomic_exchange(&object->released, true)) broken("released twice");
  atomic_fetch_sub(&object->interp->objects, 1);
}

int64_t ph_port_interp_id(port_interp *interp) { return interp->id; }
bool ph_port_interp_is_main(port_interp *interp) { return interp->is_main; }

void *ph_port_cookie(port_interp *interp) {
  return atomic_load(&interp->cookie);
}

void *ph_port_cookie_set(port_interp *interp, void *cookie) {
  void (*fn)(void *) = before_cookie;
  before_cookie = NULL;
  if (fn != NULL) fn(before_cookie_arg);
  if (no_memory) return NULL;
  void *none = NULL;
  return atomic_compare_exchange_strong(&interp->cookie, &none, cookie) ? cookie
                                                                        : none;
}

void *ph_port_shared(port_interp *interp, const char *name, void *mine) {
  (void)interp, (void)name;
  return mine; /* there are no other copies */
}

uint64_t ph_port_state_id(port_state *state) { return (uintptr_t)state; }

bool ph_port_is_attached(port_state *state) { return current == state; }
bool ph_port_is_next(port_state *state) {
  return current == NULL && gilstate == state;
}

bool ph_port_gate_is_late(void) { return too_late; }

bool ph_port_register_main_gate_later(void *cookie) {
  (void)cookie;
  return false;
}

pyhold_status ph_port_register_gate(void *cookie) {
  struct record *record = cookie;
  if (no_memory) return PYHOLD_ENOMEM;
  atomic_fetch_add(&record->interp->gates, 1);
  return PYHOLD_OK;
}

bool ph_port_adopt_main(void) {
  struct _is *interp = atomic_load(&main_interp);
  if (interp == NULL) return false;
  struct _ts *before = current;
  if (before != NULL) ph_port_detach(before);
  struct _ts *state = ph_port_state_new(interp);
  ph_port_attach(state);
  ph_registry_adopt_main(interp);
  ph_port_state_delete_attached(state);
  if (before != NULL) ph_port_attach(before);
  return true;
}

bool ph_port_adopt_main_later(void) { return ph_port_adopt_main(); }

void ph_port_forget_error(void) { current->error = false; }
void ph_port_report_error(const char *file, int line) {
  (void)file, (void)line;
  current->error = false;
}
void ph_port_report_deferred_error(void) {}
bool ph_port_has_error(port_state *state) { return state->error; }
int *ph_port_users(port_state *state) { return &state->users; }
bool ph_port_is_clean(port_state *state) {
  return !state->dirty && !state->error;
}
bool ph_port_is_clean_but_for_error(port_state *state) { return !state->dirty; }
bool ph_port_is_unused(port_state *state) {
  if (current != state) broken("looks at a state that is not attached");
  return true;
}
void ph_port_clear_state(port_state *state) {
  if (current != state) broken("clears a state that is not attached");
  if (state->dirty) {
    state->dirty = false;
    run_destructor();
  }
}
void ph_port_state_disown(port_state *state) {
  if (current == state) broken("disowns a state that is attached");
}
void ph_port_state_own(port_state *state) { (void)state; }

bool ph_port_interrupted(void) { return atomic_exchange(&interrupted, false); }

/* --- For tests --- */

static void attach_new(struct _is *interp) {
  struct _ts *before = current;
  if (before != NULL) ph_port_detach(before);
  struct _ts *state = ph_port_state_new(interp);
  state->before = before;
  ph_port_attach(state);
}

static void detach_new(void) {
  struct _ts *before = current->before;
  ph_port_state_delete_attached(current);
  if (before != NULL) ph_port_attach(before);
}

struct _is *fake_interp_begin(bool is_main) {
  struct _is *interp = calloc(1, sizeof *interp);
  interp->is_main = is_main;
  if (is_main) {
    atomic_store(&next_id, 1);
    atomic_store(&main_interp, interp);
  } else {
    interp->id = atomic_fetch_add(&next_id, 1);
  }
  attach_new(interp);
  interp->first = current;
  /* Never freed, so that what comes late can be caught. */
  interp->next = atomic_load(&all_interps);
  while (!atomic_compare_exchange_weak(&all_interps, &interp->next, interp)) {
  }
  return interp;
}

void fake_interp_end(struct _is *interp) {
  if (current != interp->first) broken("ended by another thread");
  void *cookie = atomic_load(&interp->cookie);
  if (atomic_load(&interp->gates) > 0) ph_registry_callbacks_run(cookie);
  for (int n = atomic_load(&interp->gates); n > 0; --n)
    ph_registry_finalize(cookie, /*may_wait=*/true);
  atomic_store(&interp->ended, true);
  if (interp->is_main) { /* ends all */
    for (struct _is *i = atomic_load(&all_interps); i != NULL; i = i->next)
      atomic_store(&i->ended, true);
  }
  if (cookie != NULL) ph_registry_interp_gone(cookie);
  if (interp->is_main) atomic_store(&main_interp, NULL);
  struct _ts *before = current->before;
  free_state(current);
  current = NULL;
  gilstate = NULL;
  /* States that are not in use are deleted with it. */
  pthread_mutex_lock(&list_lock);
  for (struct _ts *state = interp->list, *next; state != NULL; state = next) {
    next = state->next;
    if (!atomic_load(&state->attached)) free_state_locked(state);
  }
  pthread_mutex_unlock(&list_lock);
  if (before != NULL) ph_port_attach(before);
}

void fake_after_fork(void) {
  for (struct _is *i = atomic_load(&all_interps); i != NULL; i = i->next) {
    for (struct _ts *state = i->list, *next; state != NULL; state = next) {
      next = state->next;
      if (state != current) free_state(state);
    }
    if (i->is_main || atomic_exchange(&i->ended, true)) continue;
    void *cookie = atomic_load(&i->cookie);
    if (cookie != NULL) ph_registry_interp_gone(cookie);
  }
  if (current->interp != atomic_load(&main_interp))
    broken("forked while attached to a subinterpreter");
  current->before = NULL;
  current->interp->first = current;
  gilstate = current;
}

struct _object *fake_object_new(struct _is *interp) {
  static _Atomic(struct _object *) all;
  struct _object *object = calloc(1, sizeof *object);
  object->interp = interp;
  object->next = atomic_load(&all);
  while (!atomic_compare_exchange_weak(&all, &object->next, object)) {
  }
  atomic_fetch_add(&interp->objects, 1);
  return object;
}
int fake_object_count(struct _is *interp) {
  return atomic_load(&interp->objects);
}

int64_t fake_interp_id(struct _is *interp) { return interp->id; }

void fake_thread_attach(struct _is *interp) { attach_new(interp); }
void fake_thread_detach(void) { detach_new(); }

struct _ts *fake_save(void) {
  struct _ts *state = current;
  ph_port_detach(state);
  return state;
}
void fake_restore(struct _ts *state) { ph_port_attach(state); }

void fake_leave_value(void) { current->dirty = true; }
void fake_leave_error(void) { current->error = true; }
bool fake_has_error(void) { return current->error; }
bool fake_has_value(void) { return current->dirty; }
int fake_users(void) { return current->users; }

struct _ts *fake_current(void) { return current; }
int fake_state_count(struct _is *interp) {
  return atomic_load(&interp->states);
}

void fake_set_no_memory(bool on) { no_memory = on; }
void fake_set_too_late(bool on) { too_late = on; }
void fake_set_no_gil(bool on) { atomic_store(&exit_deletes_state, on); }
void fake_interrupt(void) { atomic_store(&interrupted, true); }
void fake_on_delete(void (*fn)(void *), void *arg) {
  atomic_store(&on_delete_arg, arg);
  atomic_store(&on_delete, fn);
}
void fake_before_cookie(void (*fn)(void *), void *arg) {
  before_cookie_arg = arg;
  before_cookie = fn;
}
void fake_before_attach(void (*fn)(void *), void *arg) {
  before_attach_arg = arg;
  before_attach = fn;
}
void fake_before_detach(void (*fn)(void *), void *arg) {
  before_detach_arg = arg;
  before_detach = fn;
}
