/* gate: where an interpreter's finalization and its holders meet.
 *
 * A gate is open, then closed. It knows holders of two kinds: slots, one for
 * each thread that ever entered, and a count of holds that have no thread.
 *
 *   state       slot_enter  slot_enter_pinned  hold     dup    join     is_idle
 *   OPEN        in          in                 + 1      + 1    + 1      -
 *   CLOSED(n)   refused     in                 refused  + 1    + 1      false
 *   CLOSED(0)   refused     -                  refused  -      refused  by slots
 *
 * INV1  CLOSED is final: nothing opens a gate again.
 * INV2  Once closed and idle, nothing holds a gate again. (A caller that is
 *       about to be refused may be seen for a moment: INV3.) After the close,
 *       protection comes only from protection: ph_gate_dup() needs a hold,
 *       ph_gate_join() adds to a count that is not zero, and
 *       ph_slot_enter_pinned() is called by a holder before it drops its hold.
 *       Nothing turns a slot into a hold. So ph_gate_is_idle() reads the holds
 *       first and the slots after them: what leaves the count in between is
 *       seen in a slot.
 * INV3  A closed gate becomes idle after at most the calls in progress:
 *       ph_slot_enter() looks before it writes, so that refused callers,
 *       however many and however busy, leave their slots at zero. Each thread
 *       can slip between the look and the write once.
 *
 * Ordering. A thread's side is on the path of every call, the closer's is used
 * once: so the closer pays for both. Its barrier() makes every thread of the
 * process run a full memory barrier at some point of its own instructions
 * (membarrier(2)); threads only keep the compiler from exchanging two accesses.
 * Where the kernel has no such call, threads use seq_cst accesses instead.
 *
 * P1  ph_slot_enter() writes slot.active, then reads gate.closed;
 *     ph_gate_close() writes gate.closed, then runs the barrier, then
 *     ph_gate_is_idle() reads slot.active. The barrier falls into the thread's
 *     instructions either before its read, which then sees the gate closed; or
 *     after its write, which the closer then sees. It cannot be that both miss,
 *     so that the thread goes in and finalization goes on. (Seq_cst: the same,
 *     by the one total order of all four accesses.)
 * P2  ph_slot_leave() writes slot.active = 0, then reads gate.closed; the
 *     waiter has run the barrier, then reads slot.active, and sleeps. The same
 *     two cases: the thread sees the gate closed, and wakes the waiter; or the
 *     waiter sees it gone. It holds for all later looks, too: a read that comes
 *     after the barrier sees the gate closed.
 * P3  ph_slot_leave() and ph_gate_drop() release, ph_gate_is_idle() acquires:
 *     all that a holder did happens before the finalization it let go on.
 *
 * The lock: one for the process. It guards each gate's list of slots, the
 * registry, and the wait policy. It is a leaf: nobody who has it calls Python,
 * takes the GIL or takes another lock but malloc's and pthread_create()'s, so a thread
 * that exits may take it. (fork() takes them in the same order.) */
#ifndef PYHOLD_SRC_GATE_H_
#define PYHOLD_SRC_GATE_H_

#include "first.h"
//
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

PH_HIDDEN_BEGIN

#define CACHE_LINE 64

struct record;
struct _ts;

/* A slot was entered while the gate was open: when, is not known. */
#define SINCE_BEFORE_CLOSE INT64_C(-1)

/* What one thread has for one interpreter. The first line is what others read;
 * the second is what the owner's every call touches. */
struct pyhold_slot {
  /* Written by the owner, read by a waiter. */
  _Alignas(CACHE_LINE) atomic_bool active; /* it holds the interpreter */
  /* For the report. Each is whole by itself; a report made while the owner
   * goes from one ensure to the next may mix the two, which is harmless. */
  atomic_int line;
  _Atomic(const char *) file;
  atomic_int_least64_t since_ms; /* or SINCE_BEFORE_CLOSE */

  /* Written before the slot is linked, then read by all. */
  struct record *record;      /* a reference */
  int64_t thread_id;          /* the kernel's */
  struct pyhold_slot *next;   /* in the gate's list; under the lock */
  struct pyhold_slot **pprev; /* under the lock */

  /* The owner's alone: see thread.h. */
  _Alignas(CACHE_LINE) void *owner; /* what ph_this_thread() gives on it */
  unsigned ensures;                 /* in force, and protecting; but: */
  unsigned leans;                   /* in force, and leaning on a hold */
  uint64_t daemons;    /* bit n - 1: the nth of `ensures` gave that up */
  struct _ts *used;    /* attached for the oldest of `ensures`; or NULL */
  struct _ts *quick;   /* attached by the ensure that has no frame, or NULL */
  struct _ts *state;   /* made by pyhold: in use, kept or persistent */
  unsigned rebinds;    /* of `ensures`: of REBINDS frames */
  bool counted;        /* `ensures` is counted in `used`, too */
  bool keep;           /* `state` stays when nobody uses it */
  bool keeps_error;    /* and so does the exception that is pending in it */
  bool outlives;       /* an orphan that its thread may still find */
  unsigned persistent; /* pyhold_thread_states that `lasting` is there for */

  struct _ts *lasting; /* whose mark was taken away: see thread.h; or NULL */
  struct pyhold_slot *next_of_thread;
  struct _ts *vouched; /* see thread_knows(); 3.11's only, as the next */
  uint64_t vouched_id;
};

struct gate {
  /* Each on a line of its own: `closed` is read by every call and written once.
   * `help_wanted` is written only where the service thread cannot be had. */
  _Alignas(CACHE_LINE) atomic_bool closed;
  atomic_bool help_wanted;
  /* Bit 0: closed; above it, the count. */
  _Alignas(CACHE_LINE) atomic_uint_least64_t holds;
  struct pyhold_slot *slots; /* under the lock */
};

/* Whether the closer's barrier reaches all threads [P1]. Written once, before
 * there is a gate. */
#if defined(__SANITIZE_THREAD__)
#define PH_NO_MEMBARRIER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PH_NO_MEMBARRIER 1
#endif
#endif
#if defined(PH_NO_MEMBARRIER) /* ThreadSanitizer does not know it */
enum { ph_has_barrier = false };
#else
extern bool ph_has_barrier;
#endif

/* Before the first gate is made. Threads: any. */
void ph_gate_init(void);

/* Where a guard was entered. */
struct place {
  const char
      *file; /* never freed; NULL: the C API's pair, which does not say */
  int line;  /* 0: `file` says it all */
};
enum { PLACE_TEXT_SIZE = 256 };
/* "pool.cc:42", cut off if it is too long. Returns `text`. */
const char *ph_place_text(struct place place, char text[PLACE_TEXT_SIZE]);

/* Say what contract was broken, and on which thread, and abort(). */
_Noreturn void ph_fatal(const char *what);
/* The same, with the guard that it is about, whose thread may be another, and the
 * newest other guard of the calling thread; NULL: none is known. */
_Noreturn void ph_fatal_guard(const char *what, struct place guard,
                              int64_t thread_id, const struct place *other);

void ph_lock(void);
void ph_unlock(void);
/* Requires: the lock. Returns when a holder of a closed gate has left, or
 * after `ms`, or for no reason. */
void ph_wait_for_leaver(int64_t ms);
/* Wakes all who wait so. Requires: the lock, so that it cannot fall between a
 * waiter's look and its sleep. */
void ph_wake(void);
/* The same two for the service thread. */
void ph_wait_for_work(int64_t ms);
void ph_wake_for_work(void);
/* In a child of fork() nobody waits. Requires: the lock. */
void ph_renew_waits(void);
/* The kernel's id of the calling thread; and whether that of another, of this
 * process, is not in use any more. */
int64_t ph_this_thread_id(void);
bool ph_thread_is_gone(int64_t thread_id);
void ph_name_this_thread(const char *name);
/* The name of a thread of this process; "" if it is gone. Reads a file. */
enum { THREAD_NAME_SIZE = 16 };
void ph_thread_name(int64_t thread_id, char name[THREAD_NAME_SIZE]);
/* Milliseconds on a clock that never goes back; coarse, and cheap to read. */
int64_t ph_now_ms(void);

/* Requires: the lock. */
void ph_gate_link(struct gate *gate, struct pyhold_slot *slot);
void ph_gate_unlink(struct pyhold_slot *slot);
/* What a close would have to do first and takes long, so that it need not be done
 * with a lock: 10 ms, once in a process. */
void ph_gate_prepare_close(void);
/* Interrupts all threads of the process for a moment [P1]. */
void ph_gate_close(struct gate *gate);
void ph_gate_wake_waiters(void);
/* Whether nothing holds the gate but, perhaps, slots of thread `except`.
 * Requires: the lock; the gate is closed. */
bool ph_gate_is_idle(struct gate *gate, int64_t except);

/* Write slot.active, before whatever the caller reads next [P1] [P2]. */
static inline void ph_slot_set(struct pyhold_slot *slot, bool active) {
  if (ph_has_barrier) {
    /* release: [P3]. */
    atomic_store_explicit(&slot->active, active, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst); /* the compiler's barrier */
  } else {
    atomic_store_explicit(&slot->active, active, memory_order_seq_cst);
  }
}

/* Requires, of these three: the caller owns the slot, and it is linked. */
static inline void ph_slot_leave(struct gate *gate, struct pyhold_slot *slot) {
  ph_slot_set(slot, false);
  /* seq_cst: [P2]. */
  if (atomic_load_explicit(&gate->closed, memory_order_seq_cst))
    ph_gate_wake_waiters();
}

static inline bool ph_slot_enter(struct gate *gate, struct pyhold_slot *slot) {
  /* relaxed: a first look, for [INV3]; the second one decides. */
  if (atomic_load_explicit(&gate->closed, memory_order_relaxed)) return false;
  ph_slot_set(slot, true);
  /* seq_cst: [P1]. */
  if (!atomic_load_explicit(&gate->closed, memory_order_seq_cst)) return true;
  ph_slot_leave(gate, slot);
  return false;
}

/* Requires: the caller has a hold on the gate, or the lock while the gate is not
 * idle: so the closer's next look, which takes the lock, sees the slot. */
static inline void ph_slot_enter_pinned(struct pyhold_slot *slot) {
  /* relaxed: the ph_gate_drop() that follows releases it, and ph_gate_is_idle()
   * acquires that before it reads the slot [INV2]. */
  atomic_store_explicit(&slot->active, true, memory_order_relaxed);
}

/* Requires: the gate's memory outlives the call. */
bool ph_gate_hold(struct gate *gate);
/* The same, and while others hold a closed gate, too: it waits for them.
 * Requires: the gate's memory outlives the call. */
bool ph_gate_join(struct gate *gate);
/* Requires, of these two: the caller owns a hold. */
void ph_gate_dup(struct gate *gate);
void ph_gate_drop(struct gate *gate);
/* In a child of fork(): whatever held it does not exist. */
void ph_gate_forget_holds(struct gate *gate);
int64_t ph_gate_holds(struct gate *gate);

PH_HIDDEN_END

#endif /* PYHOLD_SRC_GATE_H_ */
