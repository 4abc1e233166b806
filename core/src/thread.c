#define _GNU_SOURCE
#include "thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "deferred.h"

/* pyhold_frame.flags; an ensure that nests in another has none. */
enum {
  TOOK = 1,              /* it protects its slot's interpreter */
  ATTACHED = 2,          /* it attached `state` */
  USES = 4,              /* that is slot->state, counted in slot->uses */
  DETACHED = 8,          /* pyhold_frame_detach() */
  RESTORES = 16,         /* it attaches `restore` at its end */
  RESTORE_TOOK = 32,     /* it protects restore_slot's interpreter */
  RESTORE_DETACHED = 64, /* `restore` was detached, and will be again */
  OWNED = 128,           /* by pyhold_thread_ensure() */
  FINALIZER = 256,       /* entered while this thread ran atexit callbacks */
  LEANS = 512,           /* on a hold that its caller has: LEANING */
};

struct thread {
  struct pyhold_slot *slots; /* newest first */
  pyhold_frame *top;
  pyhold_frame *spare; /* OWNED ones to use again, through `outer` */
  uint64_t serial;     /* of all threads that were, none has the same; or 0 */
  port_state *gone; /* CPython deleted it, and may still have it as gilstate */
};

/* --- The thread --- */

static _Thread_local struct thread self;
static pthread_key_t exit_key; /* for its destructor only */
static pthread_once_t exit_key_once = PTHREAD_ONCE_INIT;
static int exit_key_error;

/* Keeps the general ways out of the short ones, which save no registers then. */
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

static void unlink_slot(struct pyhold_slot *slot) {
  ph_lock();
  ph_gate_unlink(slot);
  ph_unlock();
  ph_record_unref(slot->record);
  free(slot);
}

static bool is_dead(const struct record *r) {
  /* acquire: pairs with kill_record(). */
  return atomic_load_explicit(&r->dead, memory_order_acquire);
}

static bool is_active(const struct pyhold_slot *slot) {
  /* relaxed: only this thread writes it. */
  return atomic_load_explicit(&slot->active, memory_order_relaxed);
}

/* What becomes of the state that an exiting thread has. Where there is a GIL it
 * is not waited for: someone who has it may be joining this thread. So the slot
 * is left, with the state, to the next thread that makes one. True if it is. */
static bool leave_behind(struct pyhold_slot *slot) {
  struct record *r = slot->record;
  if (slot->state == NULL || slot->uses > 0 || is_dead(r)) return false;
  if (!ph_port_exit_deletes_state()) {
    if (!ph_registry_orphan(slot)) free(slot);
    ph_record_unref(r);
    return true;
  }
  if (ph_slot_enter(&r->gate, slot)) { /* else it is CPython's now */
    ph_port_attach(slot->state);
    ph_port_state_delete_attached(slot->state);
    ph_slot_leave(&r->gate, slot);
  }
  return false;
}

/* Runs as the thread exits, when the frames are gone; unless it was ended inside
 * one by CPython, in an attach after the wait was given up. */
static void thread_exit(void *arg) {
  struct thread *t = arg;
  while (t->slots != NULL) {
    struct pyhold_slot *slot = t->slots;
    t->slots = slot->next_of_thread;
    if (is_active(slot)) {
      if (!is_dead(slot->record))
        ph_fatal("a thread exits inside an ensure that it never released");
      ph_slot_leave(&slot->record->gate, slot);
    }
    if (!leave_behind(slot)) unlink_slot(slot);
  }
  while (t->spare != NULL) {
    pyhold_frame *frame = t->spare;
    t->spare = frame->outer;
    free(frame);
  }
  *t =
      (struct thread){0}; /* a later destructor of this thread may start anew */
}

static void make_exit_key(void) {
  exit_key_error = pthread_key_create(&exit_key, thread_exit);
}

/* Have thread_exit() called for this thread. False: no memory. */
static bool is_known(struct thread *t) {
  if (t->serial != 0) return true;
  pthread_once(&exit_key_once, make_exit_key);
  if (exit_key_error != 0 || pthread_setspecific(exit_key, t) != 0)
    return false;
  static atomic_uint_least64_t serials;
  /* relaxed: a number that differs is all that is asked. */
  t->serial = 1 + atomic_fetch_add_explicit(&serials, 1, memory_order_relaxed);
  return true;
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
      if (s->state != NULL) t->gone = s->state;
      unlink_slot(s);
    } else {
      at = &s->next_of_thread;
    }
  }
  if (!is_known(t)) return NULL;
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

/* Whether `maybe`, which some thread is attached to, is this thread's: made by
 * pyhold for it, or seen while the caller vouched for being attached
 * (Py_NewInterpreter's, say). Such a state is not pyhold's, and another may have
 * its address later, but not its number too while the interpreter lives. */
static bool thread_knows(const struct thread *t, port_state *maybe) {
  for (struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread) {
    if (s->state == maybe && !is_dead(s->record)) return true;
    /* acquire: pairs with ph_registry_interp_gone(). */
    if (s->vouched == maybe &&
        !atomic_load_explicit(&s->record->gone, memory_order_acquire) &&
        s->record->interp == ph_port_state_interp(maybe) &&
        s->vouched_id == ph_port_state_id(maybe))
      return true;
  }
  return false;
}

static port_state *attached_state(const struct thread *t) {
  port_state *maybe;
  port_state *state = ph_port_current(&maybe);
  if (state == NULL && maybe != NULL && thread_knows(t, maybe)) state = maybe;
  return state;
}

bool ph_thread_is_attached(const struct record *r) {
  port_state *state = attached_state(&self);
  /* acquire: pairs with ph_registry_interp_gone(). After it the address may be
   * that of another interpreter. */
  return state != NULL && ph_port_state_interp(state) == r->interp &&
         !atomic_load_explicit(&r->gone, memory_order_acquire);
}

pyhold_status ph_thread_adopt_main(struct record **out) {
  struct record *r = ph_registry_find_main();
  if (r == NULL) {
    /* Perhaps the caller is attached to it. (It does not vouch for that here:
     * on 3.11 what is current may be another thread's.) */
    if (attached_state(&self) == NULL) return PYHOLD_ENOINTERP;
    pyhold_status status = ph_thread_adopt_current(&r);
    if (status != PYHOLD_OK) return status;
    if (!r->is_main) {
      ph_record_unref(r);
      r = ph_registry_find_main(); /* adopted with the other, on 3.11 */
      if (r == NULL) return PYHOLD_ENOINTERP;
    }
  }
  *out = r;
  return PYHOLD_OK;
}

pyhold_status ph_thread_adopt_current(struct record **out) {
  struct thread *t = &self;
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
    slot->vouched_id = ph_port_state_id(vouched);
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
static void note_place(struct pyhold_slot *slot, const char *file, int line,
                       int64_t since_ms) {
  /* relaxed, all: see struct pyhold_slot. */
  atomic_store_explicit(&slot->file, file, memory_order_relaxed);
  atomic_store_explicit(&slot->line, line, memory_order_relaxed);
  atomic_store_explicit(&slot->since_ms, since_ms, memory_order_relaxed);
}

/* Join those that a closed gate waits for, if this thread came in with one. */
static bool join(struct pyhold_slot *slot) {
  struct gate *gate = &slot->record->gate;
  for (const pyhold_frame *f = self.top; f != NULL; f = f->outer) {
    if (f->slot != slot || !(f->flags & LEANS)) continue;
    if (!ph_gate_join(gate)) return false; /* it was given back since */
    ph_slot_enter_pinned(slot);
    ph_gate_drop(gate); /* after ph_slot_enter_pinned() [INV2] */
    return true;
  }
  return false;
}

/* Protect the slot's interpreter, unless an older frame does. False: refused.
 */
static bool protect(struct pyhold_slot *slot, enum entry entry, bool *took,
                    const char *file, int line) {
  *took = false;
  if (is_active(slot) || entry == LEANING) return true;
  note_place(slot, file, line, ph_now_ms());
  if (entry == PINNED)
    ph_slot_enter_pinned(slot);
  else if (!ph_slot_enter(&slot->record->gate, slot) && !join(slot))
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
  if (slot == NULL || !protect(slot, ASK, &took, frame->file, frame->line))
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
    frame->flags |= RESTORES;
    ph_port_detach(attached);
  } else {
    port_state *displaced = ph_port_displaced_by(frame->state);
    if (displaced != NULL && displaced != t->gone &&
        protect_restored(t, frame, displaced)) {
      frame->restore = displaced;
      frame->flags |= RESTORES | RESTORE_DETACHED;
    }
  }
}

/* The state that the thread most likely has for the slot's interpreter, attached
 * or not; or NULL. */
static inline port_state *usual_state(const struct thread *t,
                                      const struct pyhold_slot *slot) {
  if (slot->state != NULL) return slot->state;
  port_state *bound = ph_port_gilstate();
  bool fits = bound != NULL && bound != t->gone &&
              ph_port_state_interp(bound) == slot->record->interp;
  return fits ? bound : NULL;
}

/* The state that the thread has for the slot's interpreter, to which it is not
 * attached; or NULL. */
static port_state *detached_state(const struct thread *t,
                                  const struct pyhold_slot *slot) {
  port_state *usual = usual_state(t, slot);
  if (usual != NULL) return usual;
  /* What a frame set aside is detached. */
  for (const pyhold_frame *f = t->top; f != NULL; f = f->outer)
    if (f->restore != NULL &&
        ph_port_state_interp(f->restore) == slot->record->interp)
      return f->restore;
  return NULL;
}

/* The five ways of the table in thread.h. The frame's slot is protected, and
 * nobody else sees the frame yet. Pushes it if OK. */
static pyhold_status attach(struct thread *t, pyhold_frame *frame,
                            pyhold_keep keep) {
  struct pyhold_slot *slot = frame->slot;
  struct record *r = slot->record;
  port_state *attached = attached_state(t);
  if (attached != NULL && ph_port_state_interp(attached) == r->interp) {
    frame->state = attached;
    push(t, frame);
    if ((frame->flags & TOOK) && ph_deferred_is_any(r)) ph_deferred_take(r);
    return PYHOLD_OK;
  }
  /* Dead and protected: the wait was given up, or this thread ended the
   * interpreter inside a guard of its own. */
  if (is_dead(r)) return PYHOLD_EFINALIZING;

  if (t->gone != NULL && ph_port_gilstate() == t->gone)
    ph_port_forget_gilstate(r->interp);
  bool made = false;
  frame->state = detached_state(t, slot);
  if (frame->state == NULL) {
    frame->state = slot->state = ph_port_state_new(r->interp);
    if (frame->state == NULL) return PYHOLD_ENOMEM;
    slot->keep = keep == PYHOLD_KEEP && r->is_main;
    made = true;
  }
  frame->flags |= ATTACHED;
  if (frame->state == slot->state) {
    frame->flags |= USES;
    ++slot->uses;
  }
  push(t, frame); /* before set_aside(), which may look for slots not in use */
  set_aside(t, frame, attached);
  ph_port_attach(frame->state);
  t->gone = NULL; /* if it was the gilstate, now this one is */
  /* Whoever adds a state takes away those that exited threads left. */
  if (made) ph_registry_reclaim(r);
  if (ph_deferred_is_any(r)) ph_deferred_take(r);
  return PYHOLD_OK;
}

/* The general way. */
NOINLINE static pyhold_status enter_slowly(pyhold_frame *frame,
                                           struct record *r, const char *file,
                                           int line, enum entry entry,
                                           pyhold_keep keep) {
  struct thread *t = &self;
  struct pyhold_slot *slot = slot_for(t, r);
  if (slot == NULL) return PYHOLD_ENOMEM;
  bool took;
  if (!protect(slot, entry, &took, file, line)) return PYHOLD_EFINALIZING;
  *frame = (pyhold_frame){
      .slot = slot,
      .file = file,
      .line = line,
      .flags = (took ? TOOK : 0) | (entry == LEANING ? LEANS : 0)};
  pyhold_status status = attach(t, frame, keep);
  if (status != PYHOLD_OK && took) unprotect(slot);
  return status;
}

static inline void push_simple(struct thread *t, pyhold_frame *frame,
                               struct pyhold_slot *slot, port_state *state,
                               const char *file, int line, unsigned flags) {
  frame->outer = t->top;
  frame->slot = slot;
  frame->state = state;
  frame->restore = NULL;
  frame->restore_slot = NULL;
  frame->file = file;
  frame->line = line;
  frame->flags = flags;
  t->top = frame;
}

/* The short way for threads that have a state, if there is nothing to set aside:
 * they are detached, or attached to it through something else than pyhold. */
NOINLINE static pyhold_status enter_outermost(pyhold_frame *frame,
                                              struct record *r,
                                              const char *file, int line,
                                              enum entry entry,
                                              pyhold_keep keep) {
  struct thread *t = &self;
  struct pyhold_slot *slot = t->slots;
  if (slot == NULL || slot->record != r || is_active(slot) || entry != ASK)
    return enter_slowly(frame, r, file, line, entry, keep);
  /* The clock would be a third of what this costs without a GIL. */
  note_place(slot, file, line, SINCE_BEFORE_CLOSE);
  if (!ph_slot_enter(&r->gate, slot)) {
    if (t->top == NULL) return PYHOLD_EFINALIZING;
    return enter_slowly(frame, r, file, line, entry, keep);
  }
  /* Only now is the state there for sure. */
  port_state *state = usual_state(t, slot);
  if (state != NULL && ph_port_is_next(state)) {
    unsigned flags = TOOK | ATTACHED;
    if (state == slot->state) {
      flags |= USES;
      ++slot->uses;
    }
    push_simple(t, frame, slot, state, file, line, flags);
    ph_port_attach(state);
    if (ph_deferred_is_any(r)) ph_deferred_take(r);
    return PYHOLD_OK;
  }
  if (state != NULL && ph_port_is_attached(state)) {
    push_simple(t, frame, slot, state, file, line, TOOK);
    if (ph_deferred_is_any(r)) ph_deferred_take(r);
    return PYHOLD_OK;
  }
  ph_slot_leave(&r->gate, slot);
  return enter_slowly(frame, r, file, line, entry, keep);
}

/* Here the short way for an ensure in an ensure of the same interpreter, and
 * attached: its slot protects it (INV4), or, for both, a hold. */
pyhold_status ph_thread_enter(pyhold_frame *frame, struct record *r,
                              const char *file, int line, enum entry entry,
                              pyhold_keep keep) {
  struct thread *t = &self;
  const pyhold_frame *top = t->top;
  if (top == NULL || top->slot->record != r || top->state == NULL ||
      !(is_active(top->slot) || (entry == LEANING && (top->flags & LEANS))) ||
      /* relaxed: a thread that ended its own interpreter sees it closed, and
       * does not look into a state that is gone. */
      atomic_load_explicit(&r->gate.closed, memory_order_relaxed) ||
      !ph_port_is_attached(top->state))
    return enter_outermost(frame, r, file, line, entry, keep);
  push_simple(t, frame, top->slot, top->state, file, line, 0);
  return PYHOLD_OK;
}

pyhold_status pyhold_frame_detach(pyhold_frame *frame, const char *file,
                                  int line) {
  struct thread *t = &self;
  /* Only what is known to be this thread's: nobody vouches for it here. */
  port_state *attached = attached_state(t);
  if (attached == NULL) return PYHOLD_EDETACHED;
  struct record *r;
  pyhold_status status = ph_thread_adopt_current(&r);
  if (status != PYHOLD_OK) return status;
  struct pyhold_slot *slot = slot_for(t, r);
  ph_record_unref(r);
  if (slot == NULL) return PYHOLD_ENOMEM;
  bool took;
  /* relaxed: only a value that this thread wrote is equal. */
  bool finalizes_it =
      atomic_load_explicit(&slot->record->finalizing_thread_id,
                           memory_order_relaxed) == slot->thread_id;
  if (!protect(slot, ASK, &took, file, line) && !finalizes_it)
    return PYHOLD_EFINALIZING;
  *frame = (pyhold_frame){.slot = slot,
                          .restore = attached,
                          .file = file,
                          .line = line,
                          .flags = DETACHED | RESTORES | (took ? TOOK : 0) |
                                   (finalizes_it ? FINALIZER : 0)};
  ph_port_detach(attached);
  push(t, frame);
  return PYHOLD_OK;
}

/* Whether slot->state is to stay, now that no frame has it attached. */
static bool is_wanted(const struct thread *t, const struct pyhold_slot *slot) {
  if (slot->keep || slot->uses > 0 || slot->persistent > 0) return true;
  /* PyGILState_Ensure attached it, say, and will come back to it. */
  for (const pyhold_frame *f = t->top; f != NULL; f = f->outer)
    if (f->restore == slot->state && !(f->flags & RESTORE_DETACHED))
      return true;
  return false;
}

static void delete_attached(struct thread *t, struct pyhold_slot *slot) {
  ++slot->uses; /* by the clearing, which may ensure */
  ph_port_state_delete_attached(slot->state);
  --slot->uses;
  for (pyhold_frame *f = t->top; f != NULL; f = f->outer) {
    if (f->restore == slot->state) { /* there is nothing to bind again */
      f->restore = NULL;
      f->flags &= ~(unsigned)RESTORES;
    }
  }
  slot->state = NULL;
}

/* Whether an exception that is pending when a frame is left would be met by the
 * thread's next one, in a state that nobody but pyhold has. */
static bool leaves_error(const pyhold_frame *frame) {
  const struct pyhold_slot *slot = frame->slot;
  return (frame->flags & USES) && slot->uses == 1 && slot->persistent == 0 &&
         !is_dead(slot->record) && ph_port_is_attached(frame->state) &&
         ph_port_has_error(frame->state);
}

static void undo_attach(struct thread *t, pyhold_frame *frame) {
  struct pyhold_slot *slot = frame->slot;
  /* The C API's calls may pass one on: Cython does. */
  if (!(frame->flags & OWNED) && leaves_error(frame))
    ph_port_report_error(frame->file, frame->line);
  if (frame->flags & USES) --slot->uses;
  if (is_dead(slot->record) && attached_state(t) != frame->state) {
    /* This thread itself finalized the interpreter meanwhile, or the wait was
     * given up and CPython ends this thread. The state is gone. */
    if (frame->flags & USES) slot->state = NULL;
  } else if ((frame->flags & USES) && !is_wanted(t, slot)) {
    delete_attached(t, slot);
  } else {
    ph_port_detach(frame->state);
  }
}

/* Attach what was set aside, unless there is nothing to come back to. */
static void restore(pyhold_frame *frame) {
  const struct pyhold_slot *slot =
      (frame->flags & DETACHED) ? frame->slot : frame->restore_slot;
  if (slot != NULL && is_dead(slot->record) && !(frame->flags & FINALIZER)) {
    /* relaxed: only a value that this thread wrote is equal. */
    bool ended_it =
        atomic_load_explicit(&slot->record->finalizing_thread_id,
                             memory_order_relaxed) == slot->thread_id;
    if (ended_it || (frame->flags & RESTORE_DETACHED)) return;
    /* The wait was given up. What follows in this thread believes that it is
     * attached: so it ends here, as CPython from 3.14 on ends its daemons. */
    for (;;) pause();
  }
  ph_port_attach(frame->restore);
  if (frame->flags & RESTORE_DETACHED) ph_port_detach(frame->restore);
}

NOINLINE static void leave_slowly(struct thread *t, pyhold_frame *frame) {
  if (frame->flags & ATTACHED) undo_attach(t, frame);
  if (frame->flags & RESTORES) restore(frame);
  t->top = frame->outer;
  if (frame->flags & RESTORE_TOOK) unprotect(frame->restore_slot);
  if (frame->flags & TOOK) unprotect(frame->slot);
}

/* The short way for what enter_outermost() entered. */
NOINLINE static void leave_outermost(struct thread *t, pyhold_frame *frame) {
  struct pyhold_slot *slot = frame->slot;
  unsigned flags = frame->flags;
  if ((flags & ~(unsigned)(ATTACHED | USES | OWNED)) != TOOK ||
      ((flags & USES) && !slot->keep) ||
      /* relaxed: this thread is protected; unless it closed the gate itself, or
       * the wait was given up. */
      atomic_load_explicit(&slot->record->gate.closed, memory_order_relaxed) ||
      ((flags & USES) && ph_port_has_error(frame->state))) {
    leave_slowly(t, frame);
    return;
  }
  if (flags & ATTACHED) ph_port_detach(frame->state);
  if (flags & USES) --slot->uses;
  t->top = frame->outer;
  unprotect(slot);
}

static inline void leave(struct thread *t, pyhold_frame *frame) {
  if ((frame->flags & ~(unsigned)OWNED) == 0)
    t->top = frame->outer;
  else
    leave_outermost(t, frame);
}

void pyhold_frame_leave(pyhold_frame *frame) {
  struct thread *t = &self;
  if (t->top != frame || (frame->flags & OWNED))
    ph_fatal("a guard was left that is not this thread's newest");
  leave(t, frame);
}

pyhold_status ph_thread_ensure(struct record *r, enum entry entry,
                               pyhold_keep keep) {
  struct thread *t = &self;
  pyhold_frame *frame = t->spare;
  if (frame != NULL)
    t->spare = frame->outer;
  else if (is_known(t))
    frame = malloc(sizeof *frame);
  if (frame == NULL) return PYHOLD_ENOMEM;
  pyhold_status status = ph_thread_enter(frame, r, NULL, 0, entry, keep);
  if (status == PYHOLD_OK) {
    frame->flags |= OWNED;
  } else {
    frame->outer = t->spare;
    t->spare = frame;
  }
  return status;
}

void ph_thread_release(const char *call, bool forget_error) {
  struct thread *t = &self;
  if (t->top == NULL || !(t->top->flags & OWNED)) ph_fatal(call);
  pyhold_frame *frame = t->top;
  if (forget_error && leaves_error(frame))
    ph_port_forget_error(); /* runs destructors, which may ensure */
  leave(t, frame);
  frame->outer = t->spare;
  t->spare = frame;
}

void pyhold_thread_release(void) {
  ph_thread_release("pyhold_thread_release() without an ensure to undo",
                    /*forget_error=*/false);
}

pyhold_status pyhold_thread_set_daemon(bool daemon) {
  pyhold_frame *frame = self.top;
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
  if (!protect(slot, ASK, &took, frame->file, frame->line))
    return PYHOLD_EFINALIZING;
  if (took) frame->flags |= TOOK;
  return PYHOLD_OK;
}

/* --- Persistent thread states --- */

struct pyhold_thread_state {
  struct record *record; /* a reference; and a hold, if not the main one */
  struct pyhold_slot *slot;
  uint64_t serial;    /* of the thread that it is for */
  bool attached;      /* `frame` is in force */
  pyhold_frame frame; /* of pyhold_thread_state_attach() */
};

static bool is_own(const pyhold_thread_state *ts) {
  return self.serial == ts->serial;
}

pyhold_status ph_thread_state_new(struct record *r, pyhold_thread_state **out) {
  *out = NULL;
  struct thread *t = &self;
  struct pyhold_slot *slot = slot_for(t, r);
  pyhold_thread_state *ts = slot != NULL ? malloc(sizeof *ts) : NULL;
  if (ts == NULL) return PYHOLD_ENOMEM;
  /* A hold, so that the state can be made; for a subinterpreter it stays. */
  if (!ph_gate_hold(&r->gate)) {
    free(ts);
    return PYHOLD_EFINALIZING;
  }
  /* Attached through something else than pyhold it has a state, too. */
  port_state *attached = attached_state(t);
  bool has_one =
      (attached != NULL && ph_port_state_interp(attached) == r->interp) ||
      detached_state(t, slot) != NULL;
  if (!has_one) slot->state = ph_port_state_new(r->interp);
  bool ok = has_one || slot->state != NULL;
  if (ok) {
    ++slot->persistent;
    *ts = (pyhold_thread_state){.record = r, .slot = slot, .serial = t->serial};
    ph_record_ref(r);
    *out = ts;
  } else {
    free(ts);
  }
  if (!ok || r->is_main) ph_gate_drop(&r->gate);
  return ok ? PYHOLD_OK : PYHOLD_ENOMEM;
}

static enum entry entry_of(const pyhold_thread_state *ts) {
  return ts->record->is_main ? ASK : PINNED;
}

pyhold_status pyhold_thread_state_attach(pyhold_thread_state *ts) {
  if (!is_own(ts) || ts->attached) return PYHOLD_EMISUSE;
  pyhold_status status = ph_thread_enter(&ts->frame, ts->record, NULL, 0,
                                         entry_of(ts), PYHOLD_KEEP);
  ts->attached = status == PYHOLD_OK;
  return status;
}

void pyhold_thread_state_detach(pyhold_thread_state *ts) {
  if (!is_own(ts) || !ts->attached)
    ph_fatal("a persistent thread state was detached that is not attached");
  pyhold_frame_leave(&ts->frame);
  ts->attached = false;
}

void pyhold_thread_state_delete(pyhold_thread_state *ts) {
  if (ts == NULL) return;
  if (!is_own(ts)) {
#ifdef NDEBUG
    return;
#else
    ph_fatal("a persistent thread state was deleted on another thread");
#endif
  }
  if (ts->attached) pyhold_thread_state_detach(ts);
  struct record *r = ts->record;
  struct pyhold_slot *slot = ts->slot;
  /* Dead: the slot may be gone. Refused: the state is CPython's to delete. */
  if (!is_dead(r)) {
    pyhold_frame frame;
    --slot->persistent;
    if (slot->state != NULL && !is_wanted(&self, slot)) {
      ++slot->persistent; /* until the frame, which may not nest, is on it */
      pyhold_status status =
          ph_thread_enter(&frame, r, NULL, 0, entry_of(ts), PYHOLD_KEEP);
      --slot->persistent;
      if (status == PYHOLD_OK) pyhold_frame_leave(&frame);
    }
    if (!r->is_main) ph_gate_drop(&r->gate);
  }
  ph_record_unref(r);
  free(ts);
}
