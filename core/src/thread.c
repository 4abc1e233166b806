#include "thread.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "copies.h"
#include "service.h"

/* What is to be undone, where a handle of a slot does not tell it all. */
struct pyhold_frame {
  struct pyhold_slot *slot;         /* the interpreter it is about */
  port_state *state;                /* attached inside of it, or NULL */
  port_state *restore;              /* attached again at the end, or NULL */
  struct pyhold_slot *restore_slot; /* protected until then, or NULL */
  unsigned flags;
  int line; /* this and `file`: where it was entered */
  const char *file;
  struct pyhold_frame *next, **pprev; /* in force: newest first; or spare */
};

/* struct pyhold_frame.flags */
enum {
  IN_FORCE = 1,
  COUNTS = 2,     /* in slot->ensures */
  LEANS = 4,      /* in slot->leans */
  DETACHED = 8,   /* pyhold_frame_detach() */
  REBINDS = 16,   /* `restore` was detached, and will be again */
  FINALIZER = 32, /* entered by the thread that finalizes */
  USES = 64,      /* `restore` counts it, and no slot does */
};

/* A handle is a frame, or a slot with some of these in its low bits. */
enum { COUNTED = 1, QUICK = 2, LEANED = 4, KINDS = 7 };

static inline pyhold_frame *slot_handle(struct pyhold_slot *slot,
                                        unsigned kinds) {
  return (pyhold_frame *)((uintptr_t)slot + kinds);
}
static inline unsigned kinds_of(const pyhold_frame *handle) {
  return (unsigned)((uintptr_t)handle & KINDS);
}
static inline struct pyhold_slot *slot_of(pyhold_frame *handle) {
  return (struct pyhold_slot *)((uintptr_t)handle & ~(uintptr_t)KINDS);
}

struct thread {
  struct pyhold_slot *slots; /* newest first */
  struct pyhold_frame *frames, *spare;
  pyhold_frame **pairs; /* handles of pyhold_thread_ensure(), oldest first */
  unsigned pair_count, pair_room;
  bool exiting;     /* its C++ thread_local variables are being destroyed */
  bool ended;       /* end_thread() was called: nothing is kept any more */
  unsigned rounds;  /* of destructors of pthread keys that came since */
  uint64_t serial;  /* of all threads that were, none has the same; or 0 */
  port_state *gone; /* CPython deleted it, and may still have it as gilstate */
};

static _Thread_local struct thread self;

/* Tells threads apart in one instruction, where the compiler can. */
#if defined(__has_builtin)
#if __has_builtin(__builtin_thread_pointer)
#define HAS_THREAD_POINTER 1
#endif
#endif
static inline void *this_thread(void) {
#if defined(HAS_THREAD_POINTER)
  return __builtin_thread_pointer();
#else
  return &self;
#endif
}

/* Keeps the general ways out of the short ones, which save no registers then. */
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

/* --- Slots --- */

static bool is_dead(const struct record *r) {
  /* acquire: pairs with kill_record(). */
  return atomic_load_explicit(&r->dead, memory_order_acquire);
}

static bool is_closed(const struct record *r) {
  /* relaxed: who is protected sees it open, unless this thread itself closed it,
   * or the wait was given up. */
  return atomic_load_explicit(&r->gate.closed, memory_order_relaxed);
}

static bool is_active(const struct pyhold_slot *slot) {
  /* relaxed: only this thread writes it. */
  return atomic_load_explicit(&slot->active, memory_order_relaxed);
}

/* Whether this thread, the slot's owner, finalizes the interpreter. */
static bool finalizes(const struct pyhold_slot *slot) {
  /* relaxed: only a value that this thread wrote is equal. */
  return atomic_load_explicit(&slot->record->finalizing_thread_id,
                              memory_order_relaxed) == slot->thread_id;
}

/* The thread that finalizes an interpreter has the last word, until that is torn
 * down: it cannot be finalized under, attached or just now detached. */
static bool has_last_word(const struct pyhold_slot *slot) {
  /* acquire: pairs with ph_registry_interp_gone(). */
  return finalizes(slot) &&
         !atomic_load_explicit(&slot->record->gone, memory_order_acquire);
}

static void unlink_slot(struct pyhold_slot *slot) {
  ph_lock();
  ph_gate_unlink(slot);
  ph_unlock();
  ph_record_unref(slot->record);
  free(slot);
}

static bool is_known(struct thread *t);

static bool in_use(const struct thread *t, const struct pyhold_slot *slot) {
  if (slot->ensures + slot->leans > 0 || slot->quick != NULL) return true;
  for (const struct pyhold_frame *f = t->frames; f != NULL; f = f->next)
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
  slot->owner = this_thread();
  slot->record = r;
  slot->thread_id = ph_this_thread_id();
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

/* --- Messages --- */

static struct place place_of_slot(const struct pyhold_slot *slot) {
  /* relaxed, both: see struct pyhold_slot. */
  return (struct place){
      atomic_load_explicit(&slot->file, memory_order_relaxed),
      atomic_load_explicit(&slot->line, memory_order_relaxed)};
}

/* The newest guard that the thread is inside of, but for that of `handle`, which may
 * be NULL, and those about the interpreter of `but`. False: none is known. Where the
 * order is wrong, it is the guard that was to be left first. */
static bool find_other(const struct thread *t, pyhold_frame *handle,
                       const struct pyhold_slot *but, struct place *other) {
  const struct pyhold_slot *own =
      handle != NULL && kinds_of(handle) != 0 ? slot_of(handle) : NULL;
  /* What attached the present state; or a guard that set another state aside, or
   * detached it; or any. */
  for (const struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if (s != own && s->quick != NULL && !is_dead(s->record) &&
        ph_port_is_attached(s->quick)) {
      *other = place_of_slot(s);
      return true;
    }
  for (const struct pyhold_frame *f = t->frames; f != NULL; f = f->next)
    if (f != handle && f->slot != but) {
      *other = (struct place){f->file, f->line};
      return true;
    }
  for (const struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if (s != own && s->ensures + s->leans > 0) {
      *other = place_of_slot(s);
      return true;
    }
  return false;
}

/* Of a handle of a slot only the place of the outermost ensure is known. */
NOINLINE _Noreturn static void fatal(const char *what, pyhold_frame *handle) {
  const bool is_frame = kinds_of(handle) == 0;
  const struct pyhold_slot *slot = is_frame ? handle->slot : slot_of(handle);
  struct place other;
  ph_fatal_guard(what,
                 is_frame ? (struct place){handle->file, handle->line}
                          : place_of_slot(slot),
                 slot->thread_id,
                 find_other(&self, handle, NULL, &other) ? &other : NULL);
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
  if (!ph_port_fits()) return PYHOLD_EMISUSE; /* before any look into `state` */
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

/* --- Protection --- */

static unsigned bits_in(uint64_t word) {
  unsigned count = 0;
  for (; word != 0; word &= word - 1) ++count;
  return count;
}

/* The bit of slot->daemons that is the newest ensure's; 0: there is none. */
static uint64_t newest_bit(const struct pyhold_slot *slot) {
  if (slot->ensures == 0 || slot->ensures > 64) return 0;
  return UINT64_C(1) << (slot->ensures - 1);
}

/* Note where the slot was taken. Before it is, so that a report finds it. */
static inline void note_place(struct pyhold_slot *slot, const char *file,
                              int line, int64_t since_ms) {
  /* relaxed, all: see struct pyhold_slot. */
  atomic_store_explicit(&slot->file, file, memory_order_relaxed);
  atomic_store_explicit(&slot->line, line, memory_order_relaxed);
  atomic_store_explicit(&slot->since_ms, since_ms, memory_order_relaxed);
}

/* Join those that a closed gate waits for, if this thread came in with one. */
static bool join(struct pyhold_slot *slot) {
  struct gate *gate = &slot->record->gate;
  if (slot->leans == 0 || !ph_gate_join(gate)) return false;
  ph_slot_enter_pinned(slot);
  ph_gate_drop(gate); /* after ph_slot_enter_pinned() [INV2] */
  return true;
}

/* Protect the slot's interpreter, unless an older ensure does. False: refused.
 */
static bool protect(struct pyhold_slot *slot, enum entry entry,
                    const char *file, int line) {
  if (is_active(slot)) return true;
  note_place(slot, file, line, ph_now_ms());
  if (entry == PINNED) {
    ph_slot_enter_pinned(slot);
    return true;
  }
  return ph_slot_enter(&slot->record->gate, slot) || join(slot);
}

/* Count one more ensure on a slot that is protected. `used`: the state that is
 * attached. Nobody else counts this ensure in it [INV8]. */
static void count(struct pyhold_slot *slot, port_state *used) {
  ++slot->ensures;
  if (slot->used == NULL) {
    slot->used = used;
    slot->counted = true;
    ++*ph_port_users(used);
  }
}

static void unprotect_if_last(struct pyhold_slot *slot) {
  if (is_active(slot) && slot->ensures <= bits_in(slot->daemons))
    ph_slot_leave(&slot->record->gate, slot); /* INV4 */
}

static void discount(struct pyhold_slot *slot) {
  slot->daemons &= ~newest_bit(slot);
  if (--slot->ensures == 0) {
    if (slot->counted && !is_dead(slot->record))
      --*ph_port_users(slot->used); /* INV8 */
    slot->counted = false;
    slot->used = NULL;
  }
  unprotect_if_last(slot);
}

/* --- States --- */

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
  for (const struct pyhold_frame *f = t->frames; f != NULL; f = f->next)
    if (f->restore != NULL &&
        ph_port_state_interp(f->restore) == slot->record->interp)
      return f->restore;
  return NULL;
}

/* Clear what calls left in a state. Destructors may set things again, so there
 * are rounds. False: it is not clean even so. Requires: attached to it. */
NOINLINE static bool make_clean(struct pyhold_slot *slot, port_state *state,
                                enum left_error error) {
  for (int round = 0; round < 8 && !ph_port_is_clean(state); ++round) {
    if (ph_port_has_error(state)) {
      if (error == KEEP_ERROR) {
        slot->keeps_error = true;
        ph_port_clear_state(state);
        if (ph_port_is_clean_but_for_error(state)) return true;
        continue;
      }
      if (error == REPORT_ERROR) /* relaxed, both: this thread's own. */
        ph_port_report_error(
            atomic_load_explicit(&slot->file, memory_order_relaxed),
            atomic_load_explicit(&slot->line, memory_order_relaxed));
      else
        ph_port_forget_error();
    }
    ph_port_clear_state(state);
  }
  return ph_port_is_clean(state);
}

/* An ensure has attached `state`: count it, and if it is the outermost use of a
 * kept state, see that it starts fresh [INV9]. */
static inline void begin_use(struct pyhold_slot *slot, port_state *state) {
  int *users = ph_port_users(state);
  if (*users == PH_KEPT && (!ph_port_is_clean(state) || slot->keeps_error) &&
      ph_port_is_unused(state)) {
    bool kept = slot->keeps_error; /* for this ensure, and no later one */
    slot->keeps_error = false;
    ++*users;
    (void)make_clean(slot, state, kept ? KEEP_ERROR : DROP_ERROR);
    slot->keeps_error = false;
    return;
  }
  ++*users;
}

static void delete_attached(struct thread *t, struct pyhold_slot *slot) {
  /* Not marked: what the clearing runs is not to clear it, too. */
  *ph_port_users(slot->state) = 2;
  ph_port_state_delete_attached(slot->state);
  for (struct pyhold_frame *f = t->frames; f != NULL; f = f->next)
    if (f->restore == slot->state) f->restore = NULL; /* nothing to bind */
  if (slot->used == slot->state) {
    slot->used = NULL;
    slot->counted = false;
  }
  slot->state = NULL;
}

/* An ensure that left before has left its count to the slot: take it away, too,
 * as only one ensure is left. */
static void drop_left_count(struct pyhold_slot *slot, port_state *state) {
  if (!slot->counted || slot->used != state) return;
  slot->counted = false;
  --*ph_port_users(state); /* INV8 */
}

/* Whether a frame comes back to the slot's state, as somebody attached it
 * without counting. */
static bool is_set_aside(const struct thread *t,
                         const struct pyhold_slot *slot) {
  for (const struct pyhold_frame *f = t->frames; f != NULL; f = f->next)
    if (f->restore == slot->state && !(f->flags & REBINDS)) return true;
  return false;
}

/* An ensure that attached `state` ends: detach it, cleared or deleted if this
 * was its outermost use. The ensure is still counted in its slot. */
static void end_use(struct thread *t, struct pyhold_slot *slot,
                    port_state *state, enum left_error error,
                    pyhold_frame *handle) {
  if (is_dead(slot->record) && attached_state(t) != state) {
    /* This thread itself finalized the interpreter meanwhile, or the wait was
     * given up and CPython ends this thread. The state is gone. */
    if (slot->state == state) slot->state = NULL;
    return;
  }
  if (!ph_port_is_attached(state))
    fatal("an ensure or a guard ends while not its state is attached", handle);
  int *users = ph_port_users(state);
  if (slot->ensures + slot->leans - slot->rebinds > 1) {
    /* Others go on: a greenlet will leave them later, or they have detached. */
    if (slot->used == state && !slot->counted)
      slot->counted = true; /* takes over our count [INV8] */
    else
      --*users;
    ph_port_detach(state);
    return;
  }
  drop_left_count(slot, state);
  bool is_ours = state == slot->state && slot->persistent == 0;
  if (is_ours && !slot->keep && *users == 2 && !is_set_aside(t, slot)) {
    if (error == REPORT_ERROR && ph_port_has_error(state))
      (void)make_clean(slot, state, error);
    delete_attached(t, slot); /* INV5 */
    return;
  }
  if (*users == PH_KEPT + 1 && !ph_port_is_clean(state) &&
      ph_port_is_unused(state) && !make_clean(slot, state, error) && is_ours &&
      slot->keep && !is_set_aside(t, slot)) {
    delete_attached(t, slot);
    return;
  }
  drop_left_count(slot, state); /* by what the clearing ran */
  --*users;
  ph_port_detach(state);
  if (t->exiting && *users == PH_KEPT) ph_port_state_disown(state);
}

/* --- Frames --- */

static bool reserve_frame(struct thread *t) {
  if (t->spare != NULL) return true;
  struct pyhold_frame *frame = malloc(sizeof *frame);
  if (frame == NULL) return false;
  frame->flags = 0;
  frame->next = NULL;
  t->spare = frame;
  return true;
}

/* Requires: reserve_frame(). */
static struct pyhold_frame *push_frame(struct thread *t,
                                       struct pyhold_slot *slot,
                                       const char *file, int line) {
  struct pyhold_frame *frame = t->spare;
  t->spare = frame->next;
  *frame = (struct pyhold_frame){.slot = slot,
                                 .flags = IN_FORCE,
                                 .line = line,
                                 .file = file,
                                 .next = t->frames,
                                 .pprev = &t->frames};
  if (frame->next != NULL) frame->next->pprev = &frame->next;
  return t->frames = frame;
}

static void pop_frame(struct thread *t, struct pyhold_frame *frame) {
  *frame->pprev = frame->next;
  if (frame->next != NULL) frame->next->pprev = frame->pprev;
  frame->flags = 0;
  frame->next = t->spare;
  t->spare = frame;
}

/* Keep the interpreter of a state that leave() will attach again from finalizing
 * until then, if pyhold knows it and is not too late. */
static bool protect_restored(struct thread *t, struct pyhold_frame *frame,
                             port_state *state, const char *file, int line) {
  struct pyhold_slot *slot = slot_for_interp(t, ph_port_state_interp(state));
  if (slot == NULL || !protect(slot, ASK, file, line)) return false;
  frame->restore_slot = slot;
  return true;
}

/* Before frame->state is attached: set aside what is, or what PyGILState would
 * attach, if it would forget that by being given another. */
static void set_aside(struct thread *t, struct pyhold_frame *frame,
                      port_state *attached, const char *file, int line) {
  if (attached != NULL) {
    /* Unprotected it is as safe as in Py_BEGIN_ALLOW_THREADS. */
    if (protect_restored(t, frame, attached, file, line))
      count(frame->restore_slot, attached);
    frame->restore = attached;
    ph_port_detach(attached);
    return;
  }
  port_state *displaced = ph_port_displaced_by(frame->state);
  if (displaced != NULL && displaced != t->gone &&
      protect_restored(t, frame, displaced, file, line)) {
    frame->restore = displaced;
    frame->flags |= REBINDS;
    /* Not in use: it may be cleared or deleted meanwhile. */
    ++frame->restore_slot->ensures;
    ++frame->restore_slot->rebinds;
  }
}

/* What follows in this thread believes that it is attached, and it cannot be: so it
 * ends here, as CPython from 3.14 on ends its daemons; not by pthread_exit(), which
 * would end the process in a function that is noexcept. */
_Noreturn static void sleep_for_good(void) {
  for (;;) pause();
}

/* The gate is closed, and waits for others: then it may wait for this thread, too,
 * which one of them may need. */
static bool come_in_late(struct pyhold_slot *slot) {
  ph_lock();
  /* relaxed, both: under the lock. */
  bool waits =
      !is_dead(slot->record) &&
      !ph_gate_is_idle(&slot->record->gate,
                       atomic_load_explicit(&slot->record->finalizing_thread_id,
                                            memory_order_relaxed));
  if (waits) ph_slot_enter_pinned(slot);
  ph_unlock();
  return waits;
}

/* Attach what was set aside, unless there is nothing to come back to. */
static void restore(struct pyhold_frame *frame) {
  const struct pyhold_slot *slot =
      (frame->flags & DETACHED) ? frame->slot : frame->restore_slot;
  if (slot != NULL && is_dead(slot->record) && !(frame->flags & FINALIZER)) {
    if (finalizes(slot) || (frame->flags & REBINDS)) return;
    if (!ph_copies_hold(slot->record)) sleep_for_good();
  }
  /* Held by nobody: so hold it here, until it is attached. */
  bool takes = (frame->flags & (DETACHED | COUNTS | FINALIZER)) == DETACHED &&
               !is_active(slot);
  if (takes && !ph_slot_enter(&slot->record->gate, frame->slot) &&
      !come_in_late(frame->slot)) {
    if (!finalizes(slot) && !ph_copies_hold(slot->record)) sleep_for_good();
    takes = false;
  }
  ph_port_attach(frame->restore);
  if (takes) ph_slot_leave(&slot->record->gate, frame->slot);
  if (frame->flags & USES) --*ph_port_users(frame->restore);
  if (frame->flags & REBINDS) ph_port_detach(frame->restore);
}

/* --- Ensure --- */

/* The five ways of the table in thread.h, for a slot that is protected, or for
 * an ensure that leans. */
static pyhold_status attach(struct thread *t, struct pyhold_slot *slot,
                            pyhold_frame **out, const char *file, int line,
                            enum entry entry, pyhold_keep keep) {
  struct record *r = slot->record;
  const bool leans = entry == LEANING;
  port_state *attached = attached_state(t);
  if (attached != NULL && ph_port_state_interp(attached) == r->interp) {
    if (leans)
      ++slot->leans;
    else
      count(slot, attached);
    *out = slot_handle(slot, leans ? LEANED : COUNTED);
    return PYHOLD_OK;
  }
  /* Dead and protected: the wait was given up, or this thread ended the
   * interpreter inside a guard of its own. */
  if (is_dead(r) &&
      !((has_last_word(slot) && detached_state(t, slot) != NULL) ||
        (leans && ph_copies_hold(r))))
    return PYHOLD_EFINALIZING;

  if (t->gone != NULL && ph_port_gilstate() == t->gone)
    ph_port_forget_gilstate(r->interp);
  const bool is_plain = attached == NULL && slot->quick == NULL && !t->exiting;
  /* Without a gilstate none is displaced: a new state becomes it. */
  if (!(is_plain && ph_port_gilstate() == NULL) && !reserve_frame(t))
    return PYHOLD_ENOMEM;
  bool made = false;
  port_state *state = detached_state(t, slot);
  if (state == NULL) {
    state = slot->state = ph_port_state_new(r->interp);
    if (state == NULL) return PYHOLD_ENOMEM;
    slot->keep = keep == PYHOLD_KEEP && r->is_main && !t->ended;
    if (slot->keep) *ph_port_users(state) = PH_KEPT;
    made = true;
  }
  if (t->exiting) ph_port_state_own(state);
  if (leans) {
    ++slot->leans;
  } else {
    ++slot->ensures;
    if (slot->used == NULL) slot->used = state;
  }
  struct pyhold_frame *frame = NULL;
  if (is_plain && ph_port_displaced_by(state) == NULL) {
    slot->quick = state;
    *out = slot_handle(slot, QUICK | (leans ? LEANED : COUNTED));
  } else {
    frame = push_frame(t, slot, file, line);
    frame->state = state;
    frame->flags |= leans ? LEANS : COUNTS;
    set_aside(t, frame, attached, file, line);
    *out = frame;
  }
  ph_port_attach(state);
  t->gone = NULL; /* if it was the gilstate, now this one is */
  begin_use(slot, state);
  /* Whoever adds a state takes away those that exited threads left. */
  if (made) ph_registry_reclaim(r, /*unclean_too=*/false);
  return PYHOLD_OK;
}

/* The general way. */
NOINLINE static pyhold_status enter_slowly(pyhold_frame **out, struct record *r,
                                           const char *file, int line,
                                           enum entry entry, pyhold_keep keep) {
  struct thread *t = &self;
  struct pyhold_slot *slot = slot_for(t, r);
  if (slot == NULL) return PYHOLD_ENOMEM;
  if (entry != LEANING && !protect(slot, entry, file, line)) {
    if ((entry == STRICT || !has_last_word(slot)) && !ph_copies_hold(r))
      return PYHOLD_EFINALIZING;
    entry = LEANING;
  }
  const bool is_outermost = slot->ensures + slot->leans == 0;
  pyhold_status status = attach(t, slot, out, file, line, entry, keep);
  if (status != PYHOLD_OK)
    unprotect_if_last(slot);
  else if (is_outermost)
    ph_service_help(r);
  return status;
}

/* The short way for threads that have a state, if there is nothing to set aside:
 * they are detached, or attached to it through something else than pyhold. What
 * it needs is handed in: in a shared library `self` is a call away. */
NOINLINE static pyhold_status enter_outermost(const struct thread *t,
                                              struct pyhold_slot *slot,
                                              pyhold_frame **out,
                                              const char *file, int line,
                                              enum entry entry) {
  struct record *r = slot->record;
  if (slot->ensures != 0 || slot->quick != NULL || entry > STRICT || t->exiting)
    return enter_slowly(out, r, file, line, entry, PYHOLD_KEEP);
  /* The clock would be a third of what this costs without a GIL. */
  note_place(slot, file, line, SINCE_BEFORE_CLOSE);
  if (!ph_slot_enter(&r->gate, slot)) {
    if (slot->leans == 0 && !finalizes(slot) && !ph_copies_are_several(r))
      return PYHOLD_EFINALIZING;
    return enter_slowly(out, r, file, line, entry, PYHOLD_KEEP);
  }
  /* Only now is the state there for sure. */
  port_state *state = usual_state(t, slot);
  if (state != NULL && ph_port_is_next(state)) {
    slot->ensures = 1;
    slot->used = slot->quick = state;
    *out = slot_handle(slot, QUICK | COUNTED);
    ph_port_attach(state);
    begin_use(slot, state);
    ph_service_help(r);
    return PYHOLD_OK;
  }
  if (state != NULL && ph_port_is_attached(state)) {
    count(slot, state);
    *out = slot_handle(slot, COUNTED);
    ph_service_help(r);
    return PYHOLD_OK;
  }
  ph_slot_leave(&r->gate, slot);
  return enter_slowly(out, r, file, line, entry, PYHOLD_KEEP);
}

/* Here the short way for an ensure in an ensure of the same interpreter, and
 * attached: its slot is protected (INV4). */
static inline pyhold_status enter(pyhold_frame **out, struct record *r,
                                  const char *file, int line, enum entry entry,
                                  pyhold_keep keep) {
  const struct thread *t = &self;
  struct pyhold_slot *slot = t->slots;
  if (slot == NULL || slot->record != r)
    return enter_slowly(out, r, file, line, entry, keep);
  if (slot->used == NULL || slot->daemons != 0 || entry == LEANING ||
      is_closed(r) || !ph_port_is_attached(slot->used)) {
    if (keep != PYHOLD_KEEP)
      return enter_slowly(out, r, file, line, entry, keep);
    return enter_outermost(t, slot, out, file, line, entry);
  }
  ++slot->ensures;
  *out = slot_handle(slot, COUNTED);
  return PYHOLD_OK;
}

pyhold_status ph_thread_enter(pyhold_frame **out, struct record *r,
                              const char *file, int line, enum entry entry,
                              pyhold_keep keep) {
  return enter(out, r, file, line, entry, keep);
}

pyhold_status pyhold_frame_enter_view(pyhold_frame **out, pyhold_view *view,
                                      const char *file, int line) {
  return enter(out, view->record, file, line, ASK, view->keep);
}

pyhold_status pyhold_frame_detach(pyhold_frame **out, pyhold_detach way,
                                  const char *file, int line) {
  struct thread *t = &self;
  *out = NULL;
  /* Only what is known to be this thread's: nobody vouches for it here. */
  port_state *attached = attached_state(t);
  if (attached == NULL) return PYHOLD_EDETACHED;
  struct record *r;
  pyhold_status status = ph_thread_adopt_current(&r);
  if (status != PYHOLD_OK) return status;
  struct pyhold_slot *slot = slot_for(t, r);
  ph_record_unref(r);
  if (slot == NULL || !reserve_frame(t)) return PYHOLD_ENOMEM;
  bool holds = way == PYHOLD_DETACH_HOLDING && protect(slot, ASK, file, line);
  if (way == PYHOLD_DETACH_HOLDING && !holds && !finalizes(slot))
    return PYHOLD_EFINALIZING;
  if (!is_active(slot)) /* for a message, if it is left where it must not be */
    note_place(slot, file, line, SINCE_BEFORE_CLOSE);
  struct pyhold_frame *frame = push_frame(t, slot, file, line);
  frame->restore = attached;
  frame->flags |= DETACHED;
  if (holds) {
    count(slot, attached);
    frame->flags |= COUNTS;
  } else {
    ++*ph_port_users(attached);
    frame->flags |= USES;
  }
  if (finalizes(slot)) frame->flags |= FINALIZER;
  ph_port_detach(attached);
  *out = frame;
  return PYHOLD_OK;
}

/* --- Release --- */

/* Whether the ensure that attached the thread's own state was left before this
 * one, which nested in it and is the last: then this one ends the use [INV5]. */
static bool is_last_of_others(const struct thread *t,
                              const struct pyhold_slot *slot) {
  return slot->ensures + slot->leans - slot->rebinds == 1 && slot->counted &&
         slot->used == slot->state && !is_dead(slot->record) &&
         attached_state(t) == NULL;
}

NOINLINE static void leave_slowly(pyhold_frame *handle, enum left_error error) {
  struct thread *t = &self;
  const unsigned kinds = kinds_of(handle);
  if (kinds != 0) {
    struct pyhold_slot *slot = slot_of(handle);
    if (((kinds & COUNTED) && slot->ensures == 0) ||
        ((kinds & LEANED) && slot->leans == 0) ||
        ((kinds & QUICK) && slot->quick == NULL))
      fatal("an ensure was released, or a guard left, twice", handle);
    if (kinds & QUICK) {
      port_state *state = slot->quick;
      end_use(t, slot, state, error, handle); /* may run Python, which nests */
      slot->quick = NULL;
    }
    if (kinds == COUNTED && is_last_of_others(t, slot)) {
      port_state *state = slot->used;
      slot->counted = false; /* the count is ours now [INV8] */
      ph_port_attach(state);
      end_use(t, slot, state, error, handle);
    }
    if (kinds & LEANED)
      --slot->leans;
    else
      discount(slot);
    return;
  }
  struct pyhold_frame *frame = handle;
  struct pyhold_slot *slot = frame->slot;
  if (!(frame->flags & IN_FORCE))
    fatal("an ensure was released, or a guard left, twice", handle);
  if (frame->state != NULL) end_use(t, slot, frame->state, error, handle);
  if (frame->restore != NULL) restore(frame);
  struct pyhold_slot *restored = frame->restore_slot;
  const unsigned flags = frame->flags;
  pop_frame(t, frame);
  if (restored != NULL) {
    if (flags & REBINDS) --restored->rebinds;
    discount(restored);
  }
  if (flags & LEANS) --slot->leans;
  if (flags & COUNTS) discount(slot);
}

static inline void check_thread(const struct pyhold_slot *slot,
                                pyhold_frame *handle) {
  if (slot->owner != this_thread())
    fatal("a guard was left on another thread than its own", handle);
}

/* Whether the only use of a slot has nothing to clear and nothing to delete. */
static inline bool may_just_detach(const struct pyhold_slot *slot,
                                   port_state *state) {
  if (*ph_port_users(state) == PH_KEPT + 1) return ph_port_is_clean(state);
  return state != slot->state || slot->keep || slot->persistent > 0;
}

/* The short way for what enter_outermost() entered. */
static inline void leave_outermost(pyhold_frame *handle,
                                   struct pyhold_slot *slot,
                                   enum left_error error) {
  port_state *state = slot->quick;
  if (state == NULL || is_closed(slot->record) || !ph_port_is_attached(state) ||
      slot->ensures != 1 || (slot->leans | slot->daemons) != 0 ||
      slot->counted || !may_just_detach(slot, state)) {
    leave_slowly(handle, error);
    return;
  }
  --*ph_port_users(state);
  ph_port_detach(state);
  slot->quick = slot->used = NULL;
  slot->ensures = 0;
  ph_slot_leave(&slot->record->gate, slot);
}

static inline void leave(pyhold_frame *handle, enum left_error error) {
  const unsigned kinds = kinds_of(handle);
  if (kinds == 0) {
    check_thread(handle->slot, handle);
    leave_slowly(handle, error);
    return;
  }
  struct pyhold_slot *slot = slot_of(handle);
  check_thread(slot, handle);
  if (kinds == COUNTED && slot->ensures > 1 && slot->daemons == 0)
    --slot->ensures;
  else if (kinds == (QUICK | COUNTED))
    leave_outermost(handle, slot, error);
  else
    leave_slowly(handle, error);
}

void ph_thread_leave(pyhold_frame *handle, enum left_error error) {
  leave(handle, error);
}

void pyhold_frame_leave(pyhold_frame *handle) { leave(handle, REPORT_ERROR); }

/* --- The C pair --- */

pyhold_status ph_thread_ensure(struct record *r, enum entry entry,
                               pyhold_keep keep) {
  struct thread *t = &self;
  if (t->pair_count == t->pair_room) {
    if (!is_known(t)) return PYHOLD_ENOMEM;
    unsigned room = t->pair_room > 0 ? 2 * t->pair_room : 8;
    pyhold_frame **pairs = realloc(t->pairs, room * sizeof *pairs);
    if (pairs == NULL) return PYHOLD_ENOMEM;
    t->pairs = pairs;
    t->pair_room = room;
  }
  pyhold_frame *handle;
  pyhold_status status = ph_thread_enter(&handle, r, NULL, 0, entry, keep);
  if (status == PYHOLD_OK) t->pairs[t->pair_count++] = handle;
  return status;
}

static void release(enum left_error error) {
  struct thread *t = &self;
  if (t->pair_count == 0)
    ph_fatal("pyhold_thread_release() without an ensure to undo");
  ph_thread_leave(t->pairs[--t->pair_count], error);
}

void pyhold_thread_release(void) { release(DROP_ERROR); }

void pyhold_thread_release_keeping_error(void) { release(KEEP_ERROR); }

pyhold_status pyhold_thread_set_daemon(bool daemon) {
  struct thread *t = &self;
  /* The slot of what is attached; a daemon that has detached is found, too. */
  port_state *attached = attached_state(t);
  struct pyhold_slot *slot =
      attached != NULL ? known_slot(t, ph_port_state_interp(attached)) : NULL;
  for (struct pyhold_slot *s = t->slots; slot == NULL && s != NULL;
       s = s->next_of_thread)
    if (s->daemons != 0) slot = s;
  if (slot == NULL || newest_bit(slot) == 0) return PYHOLD_EMISUSE;
  if (daemon) {
    slot->daemons |= newest_bit(slot);
    unprotect_if_last(slot);
    return PYHOLD_OK;
  }
  if (!protect(slot, ASK, NULL, 0)) return PYHOLD_EFINALIZING;
  slot->daemons &= ~newest_bit(slot);
  return PYHOLD_OK;
}

/* --- Threads that exit ---
 *
 * What a thread has stays its own until its last destructor that may call Python
 * has run. The order is: C++ thread_local variables; then the destructors of
 * pthread keys, in up to four rounds. Ours runs in each round, and does its work
 * in the last but one: ThreadSanitizer, for one, has ended its own part of the
 * thread in the last.
 *
 * Meanwhile a state that is not in use does not carry the thread's identity, so
 * that a dump which is made while the thread ends does not look at it. And glibc
 * has emptied CPython's key in the first round, up to 3.14, though the state says
 * that it is the gilstate: ph_port_state_own() puts both right. */

static pthread_key_t exit_key; /* for its destructor only */
static bool has_exit_key;      /* under the lock */

/* What becomes of the state that an exiting thread has. Where there is a GIL it
 * is not waited for: someone who has it may be joining this thread. So the slot
 * is left, with the state, to the next thread that makes one, or to the service
 * thread. True if it is. */
static bool leave_behind(struct pyhold_slot *slot) {
  struct record *r = slot->record;
  if (slot->state == NULL || slot->quick != NULL || is_dead(r)) return false;
  if (!ph_port_exit_deletes_state()) {
    slot->outlives = ph_port_gilstate() == slot->state;
    if (ph_registry_orphan(slot))
      ph_service_wake(r);
    else
      free(slot);
    ph_record_unref(r);
    return true;
  }
  if (ph_slot_enter(&r->gate, slot)) { /* else it is CPython's now */
    ph_port_state_own(slot->state);
    ph_port_attach(slot->state);
    ph_port_state_delete_attached(slot->state);
    ph_slot_leave(&r->gate, slot);
  }
  return false;
}

/* The frames are gone; unless the thread was ended inside one by CPython, in an
 * attach after the wait was given up. */
static void end_thread(struct thread *t) {
  while (t->slots != NULL) {
    struct pyhold_slot *slot = t->slots;
    t->slots = slot->next_of_thread;
    if (is_active(slot)) {
      if (!is_dead(slot->record)) {
        struct place other;
        ph_fatal_guard("a thread exits inside an ensure that it never released",
                       place_of_slot(slot), slot->thread_id,
                       find_other(t, NULL, slot, &other) ? &other : NULL);
      }
      ph_slot_leave(&slot->record->gate, slot);
    }
    if (!leave_behind(slot)) unlink_slot(slot);
  }
  while (t->spare != NULL) {
    struct pyhold_frame *frame = t->spare;
    t->spare = frame->next;
    free(frame);
  }
  free(t->pairs);
  /* A later destructor of this thread may start anew. */
  *t = (struct thread){.ended = true};
}

/* The destructor of exit_key. */
static void thread_exit(void *arg) {
  enum { LAST_ROUND_BUT_ONE = 3 };
  struct thread *t = arg;
  /* Not exiting: pyhold was first used inside a destructor, so it is not known
   * how many rounds are left. */
  if (t->exiting && ++t->rounds < LAST_ROUND_BUT_ONE &&
      pthread_setspecific(exit_key, t) == 0)
    return;
  end_thread(t);
}

/* False: no key is left, or no memory. It may be tried again. */
static bool make_exit_key(void) {
  ph_lock();
  if (!has_exit_key)
    has_exit_key = pthread_key_create(&exit_key, thread_exit) == 0;
  const bool made = has_exit_key;
  ph_unlock();
  return made;
}

/* Of the C++ runtime; not in every C library. Calls fn(arg) as the thread exits,
 * before the destructors of keys; never, if those run already. */
__attribute__((weak)) int __cxa_thread_atexit_impl(void (*fn)(void *),
                                                   void *arg, void *dso);
extern void *__dso_handle __attribute__((visibility("hidden")));

static void exit_begins(void *arg) {
  struct thread *t = arg;
  t->exiting = true;
  ph_lock(); /* no record dies meanwhile, so no state does */
  for (struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if (s->state != NULL && !in_use(t, s) && !is_dead(s->record) &&
        *ph_port_users(s->state) == PH_KEPT)
      ph_port_state_disown(s->state);
  ph_unlock();
}

/* Have thread_exit() called for this thread. False: no memory. */
static bool is_known(struct thread *t) {
  if (t->serial != 0) return true;
  if (!make_exit_key() || pthread_setspecific(exit_key, t) != 0) return false;
  if (__cxa_thread_atexit_impl != NULL) {
    /* It ends the process where it gets no memory: so ask for some first. */
    void *probe = malloc(64);
    if (probe == NULL) return false;
    free(probe);
    (void)__cxa_thread_atexit_impl(exit_begins, t, &__dso_handle);
  }
  static atomic_uint_least64_t serials;
  /* relaxed: a number that differs is all that is asked. */
  t->serial = 1 + atomic_fetch_add_explicit(&serials, 1, memory_order_relaxed);
  return true;
}

/* --- Fork --- */

unsigned ph_forks;

/* CPython deletes all states but the one that is attached. The thread keeps what
 * it has in force; where that comes back to a state of another interpreter, there
 * is nothing to come back to (restore()). */
pyhold_deferred *ph_thread_after_fork(void) {
  struct thread *t = &self;
  ph_forks = (ph_forks + 1) & PH_FORKS;
  const int64_t id = ph_this_thread_id();
  for (struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread) {
    /* If it finalizes, it goes on to. relaxed: there is no other thread. */
    if (finalizes(s))
      atomic_store_explicit(&s->record->finalizing_thread_id, id,
                            memory_order_relaxed);
    s->thread_id = id;
  }
  pyhold_deferred *late = ph_registry_after_fork(this_thread());
  port_state *attached = attached_state(t);
  for (struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread) {
    if (is_dead(s->record) || (attached != NULL && s->state != attached)) {
      s->state = s->lasting = NULL;
      s->keep = false;
    }
  }
  return late;
}

/* --- Other copies of pyhold --- */

bool ph_thread_holds(const struct pyhold_copy_v1 *copy) {
  for (struct pyhold_slot *s = self.slots; s != NULL; s = s->next_of_thread)
    if (s->record->copy == copy && is_active(s) && !is_dead(s->record))
      return true;
  return false;
}

/* --- Where this thread was --- */

pyhold_status ph_thread_origin(struct record **out) {
  struct thread *t = &self;
  *out = NULL;
  /* Nobody vouches here: on 3.11 what is current may be another thread's. */
  if (attached_state(t) != NULL) return ph_thread_adopt_current(out);
  for (const struct pyhold_frame *f = t->frames; f != NULL; f = f->next) {
    if ((f->flags & DETACHED) && f->restore == NULL) continue;
    /* Detached by this frame; or attached by it, and detached by somebody else. A
     * dead record is the right one, too: its view refuses. */
    ph_record_ref(*out = f->slot->record);
    return PYHOLD_OK;
  }
  for (const struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if (s->quick != NULL) { /* attached without a frame */
      ph_record_ref(*out = s->record);
      return PYHOLD_OK;
    }
  port_state *bound = ph_port_gilstate();
  if (bound == NULL || bound == t->gone) return PYHOLD_OK;
  /* Compared before any look into it: with its interpreter it may be gone. */
  for (const struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if (s->state == bound) {
      ph_record_ref(*out = s->record);
      return PYHOLD_OK;
    }
  port_interp *interp = ph_port_state_interp(bound);
  *out = ph_registry_find(interp);
  if (*out != NULL) return PYHOLD_OK;
  for (const struct pyhold_slot *s = t->slots; s != NULL; s = s->next_of_thread)
    if (s->record->interp == interp && has_last_word(s)) {
      ph_record_ref(*out = s->record);
      return PYHOLD_OK;
    }
  /* Known once, and ended: the thread is in what is left of it. */
  return ph_registry_has_ended(ph_port_interp_id(interp)) ? PYHOLD_EFINALIZING
                                                          : PYHOLD_OK;
}

/* --- Persistent thread states --- */

struct pyhold_thread_state {
  struct record *record; /* a reference; and a hold, if not the main one */
  struct pyhold_slot *slot;
  uint64_t serial;      /* of the thread that it is for */
  pyhold_frame *handle; /* of pyhold_thread_state_attach(), or NULL */
};

static bool is_own(const pyhold_thread_state *ts) {
  return self.serial == ts->serial;
}

/* While a persistent state exists nobody clears the thread's state: it has no
 * mark then. */
static void begin_lasting(struct pyhold_slot *slot, port_state *state) {
  if (slot->persistent++ > 0 || *ph_port_users(state) < PH_KEPT) return;
  *ph_port_users(state) -= PH_KEPT - 1;
  slot->lasting = state;
}

static void end_lasting(struct pyhold_slot *slot) {
  if (--slot->persistent > 0 || slot->lasting == NULL) return;
  *ph_port_users(slot->lasting) += PH_KEPT - 1;
  slot->lasting = NULL;
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
  port_state *state = attached_state(t);
  if (state == NULL || ph_port_state_interp(state) != r->interp)
    state = detached_state(t, slot);
  if (state == NULL) {
    state = slot->state = ph_port_state_new(r->interp);
    slot->keep = false;
  }
  if (state != NULL) {
    begin_lasting(slot, state);
    *ts = (pyhold_thread_state){.record = r, .slot = slot, .serial = t->serial};
    ph_record_ref(r);
    *out = ts;
  } else {
    free(ts);
  }
  if (state == NULL || r->is_main) ph_gate_drop(&r->gate);
  return state != NULL ? PYHOLD_OK : PYHOLD_ENOMEM;
}

static enum entry entry_of(const pyhold_thread_state *ts) {
  return ts->record->is_main ? ASK : PINNED;
}

pyhold_status pyhold_thread_state_attach(pyhold_thread_state *ts) {
  if (ts == NULL || !is_own(ts) || ts->handle != NULL) return PYHOLD_EMISUSE;
  pyhold_frame *handle;
  pyhold_status status =
      ph_thread_enter(&handle, ts->record, NULL, 0, entry_of(ts), PYHOLD_KEEP);
  if (status == PYHOLD_OK) ts->handle = handle;
  return status;
}

void pyhold_thread_state_detach(pyhold_thread_state *ts) {
  if (ts == NULL) return;
  if (!is_own(ts) || ts->handle == NULL)
    ph_fatal("a persistent thread state was detached that is not attached");
  pyhold_frame *handle = ts->handle;
  ts->handle = NULL;
  pyhold_frame_leave(handle);
}

void pyhold_thread_state_delete(pyhold_thread_state *ts) {
  if (ts == NULL) return;
  if (!is_own(ts)) {
    fprintf(
        stderr,
        "pyhold: a persistent thread state was deleted on thread %lld, which "
        "is not its own: it is leaked\n",
        (long long)ph_this_thread_id());
    return;
  }
  if (ts->handle != NULL) pyhold_thread_state_detach(ts);
  struct record *r = ts->record;
  struct pyhold_slot *slot = ts->slot;
  /* Dead: the slot may be gone. Refused: the state is CPython's to delete. */
  if (!is_dead(r)) {
    pyhold_frame *handle;
    /* Whose end deletes the state, or clears it. Not needed, if an ensure is in
     * force that has it attached: its end does. */
    bool entered = slot->persistent == 1 && slot->state != NULL &&
                   *ph_port_users(slot->state) == 1 &&
                   ph_thread_enter(&handle, r, NULL, 0, entry_of(ts),
                                   PYHOLD_KEEP) == PYHOLD_OK;
    end_lasting(slot);
    if (entered) ph_thread_leave(handle, DROP_ERROR);
    if (!r->is_main) ph_gate_drop(&r->gate);
  }
  ph_record_unref(r);
  free(ts);
}
