#define _GNU_SOURCE
#include "thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* pyhold_frame.flags */
enum {
  TOOK = 1,              /* it protects its slot's interpreter */
  MADE = 2,              /* `state` was made for it */
  DETACHED = 4,          /* pyhold_frame_detach() */
  RESTORE_TOOK = 8,      /* it protects restore_slot's interpreter */
  RESTORE_DETACHED = 16, /* `restore` was detached, and will be again */
  OWNED = 32,            /* by pyhold_thread_ensure() */
  FINALIZER = 64,        /* entered while this thread ran atexit callbacks */
};

struct thread {
  struct pyhold_slot *slots; /* newest first */
  pyhold_frame *top;
  pyhold_frame *spare; /* OWNED ones to use again, through `outer` */
};

/* --- The thread --- */

static _Thread_local struct thread *self;
static pthread_key_t exit_key; /* for its destructor only */
static pthread_once_t exit_key_once = PTHREAD_ONCE_INIT;
static int exit_key_error;

static void unlink_slot(struct pyhold_slot *slot) {
  ph_lock();
  ph_gate_unlink(slot);
  ph_unlock();
  ph_record_unref(slot->record);
  free(slot);
}

/* Runs as the thread exits, when the frames are gone, unless the thread was
 * ended inside one: by CPython, in an attach after the wait was given up. No
 * one waits for such a slot any more, so it goes like the others. Takes no GIL:
 * someone who has it may be joining this thread. */
static void thread_exit(void *arg) {
  struct thread *t = arg;
  while (t->slots != NULL) {
    struct pyhold_slot *slot = t->slots;
    t->slots = slot->next_of_thread;
    if (atomic_load_explicit(&slot->active, memory_order_relaxed))
      ph_slot_leave(&slot->record->gate, slot);
    unlink_slot(slot);
  }
  while (t->spare != NULL) {
    pyhold_frame *frame = t->spare;
    t->spare = frame->outer;
    free(frame);
  }
  free(t);
  self = NULL; /* a later destructor of this thread may start anew */
}

static void make_exit_key(void) {
  exit_key_error = pthread_key_create(&exit_key, thread_exit);
}

/* NULL: no memory. */
static struct thread *thread_self(void) {
  if (self != NULL) return self;
  pthread_once(&exit_key_once, make_exit_key);
  if (exit_key_error != 0) return NULL;
  struct thread *t = calloc(1, sizeof *t);
  if (t != NULL && pthread_setspecific(exit_key, t) != 0) {
    free(t);
    t = NULL;
  }
  return self = t;
}

static bool is_dead(const struct record *r) {
  /* acquire: pairs with kill_record(). */
  return atomic_load_explicit(&r->dead, memory_order_acquire);
}

static bool is_active(const struct pyhold_slot *slot) {
  /* relaxed: only this thread writes it. */
  return atomic_load_explicit(&slot->active, memory_order_relaxed);
}

static bool in_use(const struct thread *t, const struct pyhold_slot *slot) {
  for (const pyhold_frame *f = t->top; f != NULL; f = f->outer)
    if (f->slot == slot || f->restore_slot == slot) return true;
  return false;
}

/* The thread's slot for a record that the caller keeps alive. NULL: no memory.
 */
static struct pyhold_slot *slot_for(struct thread *t, struct record *r) {
  for (struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if (s->record == r) return s;

  /* Slots of interpreters that have ended go when a new one comes. */
  for (struct pyhold_slot **at = &t->slots; *at != NULL;) {
    struct pyhold_slot *s = *at;
    if (is_dead(s->record) && !in_use(t, s)) {
      *at = s->next_of_thread;
      unlink_slot(s);
    } else {
      at = &s->next_of_thread;
    }
  }
  struct pyhold_slot *slot =
      aligned_alloc(_Alignof(struct pyhold_slot), sizeof *slot);
  if (slot == NULL) return NULL;
  memset(slot, 0, sizeof *slot);
  slot->record = r;
  slot->thread_id = (int64_t)syscall(SYS_gettid);
  ph_record_ref(r);
  ph_lock();
  ph_gate_link(&r->gate, slot);
  ph_unlock();
  slot->next_of_thread = t->slots;
  return t->slots = slot;
}

/* The thread's slot for a living interpreter, if it has one. */
static struct pyhold_slot *known_slot(const struct thread *t,
                                      port_interp *interp) {
  /* A record that is not dead owns its interp pointer: no other interpreter
   * can have the same. */
  for (struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if (s->record->interp == interp && !is_dead(s->record)) return s;
  return NULL;
}

/* The same, made if need be; NULL if pyhold does not know the interpreter, or
 * there is no memory. */
static struct pyhold_slot *slot_for_interp(struct thread *t,
                                           port_interp *interp) {
  struct pyhold_slot *known = known_slot(t, interp);
  if (known != NULL) return known;
  struct record *r = ph_registry_find(interp);
  if (r == NULL) return NULL;
  struct pyhold_slot *slot = slot_for(t, r);
  ph_record_unref(r);
  return slot;
}

/* --- Who is attached? --- */

/* Whether `maybe` is this thread's: made by pyhold for it, or seen while the
 * caller vouched for being attached (Py_NewInterpreter's, say). */
static bool thread_knows(const struct thread *t, const port_state *maybe) {
  for (struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if ((s->state == maybe || s->vouched == maybe) && !is_dead(s->record))
      return true;
  return false;
}

static port_state *attached_state(const struct thread *t) {
  port_state *maybe;
  port_state *state = ph_port_current(&maybe);
  if (state == NULL && maybe != NULL && thread_knows(t, maybe)) state = maybe;
  return state;
}

pyhold_status ph_thread_adopt_current(struct record **out) {
  struct thread *t = thread_self();
  if (t == NULL) return PYHOLD_ENOMEM;
  port_state *state = attached_state(t);
  port_state *vouched = NULL;
  if (state == NULL) {
    ph_port_current(&vouched);
    if (vouched == NULL || !ph_port_maybe_is_plausible(vouched))
      return PYHOLD_EDETACHED;
    state = vouched;
  }
  port_interp *interp = ph_port_state_interp(state);
  struct pyhold_slot *known = vouched == NULL ? known_slot(t, interp) : NULL;
  if (known != NULL) { /* spares it the look into the interpreter */
    ph_record_ref(*out = known->record);
    return PYHOLD_OK;
  }
  struct record *r;
  pyhold_status status = ph_registry_adopt(interp, &r);
  if (status != PYHOLD_OK) return status;
  if (vouched != NULL) {
    struct pyhold_slot *slot = slot_for(t, r);
    if (slot == NULL) {
      ph_record_unref(r);
      return PYHOLD_ENOMEM;
    }
    slot->vouched = vouched;
  }
  *out = r;
  return PYHOLD_OK;
}

/* --- Frames --- */

static void push(struct thread *t, pyhold_frame *frame) {
  frame->outer = t->top;
  t->top = frame;
}

/* Note where the slot was taken. Before it is, so that a report finds it. */
static void note_place(struct pyhold_slot *slot, const char *file, int line) {
  /* relaxed, all: see struct pyhold_slot. */
  atomic_store_explicit(&slot->file, file, memory_order_relaxed);
  atomic_store_explicit(&slot->line, line, memory_order_relaxed);
  atomic_store_explicit(&slot->since_ms, ph_now_ms(), memory_order_relaxed);
}

/* Protect the slot's interpreter, unless an older frame does. False: refused.
 */
static bool protect(struct pyhold_slot *slot, bool hold, bool *took,
                    const char *file, int line) {
  *took = false;
  if (is_active(slot)) return true;
  note_place(slot, file, line);
  if (hold)
    ph_slot_enter_pinned(slot);
  else if (!ph_slot_enter(&slot->record->gate, slot))
    return false;
  *took = true;
  return true;
}

static void unprotect(struct pyhold_slot *slot) {
  ph_slot_leave(&slot->record->gate, slot);
}

/* Have leave() attach `state` again, and keep its interpreter from finalizing
 * until then, if pyhold knows it and is not too late. */
static bool protect_restored(struct thread *t, pyhold_frame *frame,
                             port_state *state) {
  bool took;
  struct pyhold_slot *slot = slot_for_interp(t, ph_port_state_interp(state));
  if (slot == NULL || !protect(slot, false, &took, frame->file, frame->line))
    return false;
  frame->restore_slot = slot;
  if (took) frame->flags |= RESTORE_TOOK;
  return true;
}

/* Before frame->state is attached: set aside what is, or what PyGILState would
 * attach, if it would forget that by being given another. */
static void set_aside(struct thread *t, pyhold_frame *frame,
                      port_state *attached) {
  if (attached != NULL) {
    /* Unprotected it is as safe as in Py_BEGIN_ALLOW_THREADS. */
    (void)protect_restored(t, frame, attached);
    frame->restore = attached;
    ph_port_detach(attached);
  } else if (ph_port_attach_rebinds_gilstate()) {
    port_state *bound = ph_port_gilstate();
    if (bound != NULL && bound != frame->state &&
        protect_restored(t, frame, bound)) {
      frame->restore = bound;
      frame->flags |= RESTORE_DETACHED;
    }
  }
}

/* The five ways of the table in thread.h. The slot is protected. */
static pyhold_status attach(struct thread *t, pyhold_frame *frame) {
  struct pyhold_slot *slot = frame->slot;
  port_interp *interp = slot->record->interp;
  port_state *attached = attached_state(t);
  if (attached != NULL && ph_port_state_interp(attached) == interp)
    return PYHOLD_OK;
  /* Dead and protected: the wait was given up, or this thread ended the
   * interpreter inside a guard of its own. */
  if (is_dead(slot->record)) return PYHOLD_EFINALIZING;

  port_state *state = slot->state;
  if (state == NULL) {
    port_state *bound = ph_port_gilstate();
    if (bound != NULL && ph_port_state_interp(bound) == interp) state = bound;
  }
  if (state == NULL) {
    state = ph_port_state_new(interp);
    if (state == NULL) return PYHOLD_ENOMEM;
    slot->state = state;
    frame->flags |= MADE;
  }
  frame->state = state;
  set_aside(t, frame, attached);
  ph_port_attach(state);
  return PYHOLD_OK;
}

pyhold_status ph_thread_enter(pyhold_frame *frame, struct record *r, bool hold,
                              const char *file, int line) {
  struct thread *t = thread_self();
  struct pyhold_slot *slot = t != NULL ? slot_for(t, r) : NULL;
  pyhold_status status = PYHOLD_ENOMEM;
  if (slot != NULL) {
    bool took;
    status = PYHOLD_EFINALIZING;
    if (protect(slot, hold, &took, file, line)) {
      *frame = (pyhold_frame){
          .slot = slot, .file = file, .line = line, .flags = took ? TOOK : 0};
      status = attach(t, frame);
      if (status == PYHOLD_OK)
        push(t, frame);
      else if (took)
        unprotect(slot);
    }
  }
  if (hold) ph_gate_drop(&r->gate); /* after ph_slot_enter_pinned() [INV2] */
  return status;
}

pyhold_status pyhold_frame_detach(pyhold_frame *frame, const char *file,
                                  int line) {
  struct record *r;
  pyhold_status status = ph_thread_adopt_current(&r);
  if (status != PYHOLD_OK) return status;
  struct thread *t = self;
  port_state *attached = attached_state(t);
  struct pyhold_slot *slot = slot_for(t, r);
  ph_record_unref(r);
  if (slot == NULL) return PYHOLD_ENOMEM;
  bool took;
  /* relaxed: only a value that this thread wrote is equal. */
  bool finalizes_it =
      atomic_load_explicit(&slot->record->finalizing_thread_id,
                           memory_order_relaxed) == slot->thread_id;
  if (!protect(slot, false, &took, file, line) && !finalizes_it)
    return PYHOLD_EFINALIZING;
  *frame = (pyhold_frame){
      .slot = slot,
      .restore = attached,
      .file = file,
      .line = line,
      .flags = DETACHED | (took ? TOOK : 0) | (finalizes_it ? FINALIZER : 0)};
  ph_port_detach(attached);
  push(t, frame);
  return PYHOLD_OK;
}

static void undo_attach(const struct thread *t, pyhold_frame *frame) {
  struct pyhold_slot *slot = frame->slot;
  /* Dead here: this thread itself finalized the interpreter meanwhile, or the
   * wait was given up and CPython ends this thread. Then the state is either
   * attached still, or gone. */
  if (!is_dead(slot->record) || attached_state(t) == frame->state) {
    if (frame->flags & MADE)
      ph_port_state_delete_attached(frame->state);
    else
      ph_port_detach(frame->state);
  }
  if (frame->flags & MADE) slot->state = NULL;
}

static void leave(struct thread *t, pyhold_frame *frame) {
  if (frame->state != NULL) undo_attach(t, frame);
  if (frame->restore != NULL) {
    struct pyhold_slot *slot =
        (frame->flags & DETACHED) ? frame->slot : frame->restore_slot;
    /* Dead: as above, there is nothing to come back to; unless it was so before
     * and its callbacks run, which this thread must finish. */
    if (slot == NULL || !is_dead(slot->record) || (frame->flags & FINALIZER)) {
      ph_port_attach(frame->restore);
      if (frame->flags & RESTORE_DETACHED) ph_port_detach(frame->restore);
    }
  }
  t->top = frame->outer;
  if (frame->flags & RESTORE_TOOK) unprotect(frame->restore_slot);
  if (frame->flags & TOOK) unprotect(frame->slot);
}

void pyhold_frame_leave(pyhold_frame *frame) {
  struct thread *t = self;
  if (t == NULL || t->top != frame || (frame->flags & OWNED))
    ph_fatal("a guard was left that is not this thread's newest");
  leave(t, frame);
}

pyhold_status ph_thread_ensure(struct record *r, bool hold) {
  struct thread *t = thread_self();
  pyhold_frame *frame = t != NULL ? t->spare : NULL;
  if (frame != NULL)
    t->spare = frame->outer;
  else if (t != NULL)
    frame = malloc(sizeof *frame);
  if (frame == NULL) {
    if (hold) ph_gate_drop(&r->gate);
    return PYHOLD_ENOMEM;
  }
  pyhold_status status = ph_thread_enter(frame, r, hold, NULL, 0);
  if (status == PYHOLD_OK) {
    frame->flags |= OWNED;
  } else {
    frame->outer = t->spare;
    t->spare = frame;
  }
  return status;
}

void pyhold_thread_release(void) {
  struct thread *t = self;
  if (t == NULL || t->top == NULL || !(t->top->flags & OWNED))
    ph_fatal("pyhold_thread_release() without an ensure to undo");
  pyhold_frame *frame = t->top;
  leave(t, frame);
  frame->outer = t->spare;
  t->spare = frame;
}

pyhold_status pyhold_thread_set_daemon(bool daemon) {
  struct thread *t = self;
  pyhold_frame *frame = t != NULL ? t->top : NULL;
  if (frame == NULL || (frame->flags & DETACHED)) return PYHOLD_EMISUSE;
  struct pyhold_slot *slot = frame->slot;
  if (daemon) {
    if (frame->flags & TOOK) {
      unprotect(slot);
      frame->flags &= ~(unsigned)TOOK;
    }
    return PYHOLD_OK;
  }
  bool took;
  if (!protect(slot, false, &took, frame->file, frame->line))
    return PYHOLD_EFINALIZING;
  if (took) frame->flags |= TOOK;
  return PYHOLD_OK;
}
