/* gate: where an interpreter's finalization and its holders meet.
 *
 * A gate is open, then closed. It knows holders of two kinds: slots, one for
 * each thread that ever entered, and a count of holds that have no thread.
 *
 *   state     slot_enter    slot_enter_pinned  gate_hold   dup   gate_is_idle
 *   OPEN      in            in                 count + 1   + 1   not asked
 *   CLOSED    refused       in                 refused     + 1   may be true
 *
 * INV1  CLOSED is final: nothing opens a gate again.
 * INV2  Once closed and idle, a gate stays idle. After the close, protection
 *       comes only from protection: ph_gate_dup() needs a hold, and so does
 *       ph_slot_enter_pinned(), which a holder calls before it drops that hold.
 *       Nothing turns a slot into a hold. So ph_gate_is_idle() reads the holds
 *       first and the slots after them: what leaves the count in between is
 *       seen in a slot.
 * INV3  A closed gate becomes idle after at most the calls in progress:
 *       ph_slot_enter() looks before it writes, so that refused callers,
 *       however many and however busy, leave their slots at zero. Each thread
 *       can slip between the look and the write once.
 *
 * Ordering:
 * P1  ph_slot_enter() writes slot.active, then reads gate.closed;
 *     ph_gate_close() writes gate.closed, then ph_gate_is_idle() reads
 *     slot.active. All four are seq_cst, in one total order: whichever write
 *     comes second, the read behind it sees the other. With anything weaker
 *     both reads could miss (each write still in its core's store buffer): the
 *     thread goes in, and finalization goes on.
 * P2  ph_slot_leave() writes slot.active = 0, then reads gate.closed; the
 *     waiter has written gate.closed, then reads slot.active and sleeps.
 *     Seq_cst for the same reason, turned round: else the last holder could
 *     leave without waking a waiter that did not see it leave.
 * P3  ph_slot_leave() and ph_gate_drop() release, ph_gate_is_idle() acquires:
 *     all that a holder did happens before the finalization it let go on.
 *
 * The lock: one for the process. It guards each gate's list of slots, the
 * registry, and the wait policy. It is a leaf: nobody who has it calls Python,
 * takes the GIL or takes another lock, so a thread that exits may take it. */
#ifndef PYHOLD_SRC_GATE_H_
#define PYHOLD_SRC_GATE_H_

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Functions that the core's files share are called ph_...; hidden, so that the
 * core can be linked into anything. (pyhold_... are the public ones.) */
#if defined(__GNUC__)
#pragma GCC visibility push(hidden)
#endif

#define CACHE_LINE 64

struct record;
struct _ts;

/* What one thread has for one interpreter. */
struct pyhold_slot {
  /* Written by the owner, read by a waiter. */
  _Alignas(CACHE_LINE) atomic_bool active; /* it holds the interpreter */
  /* For the report. Each is whole by itself; a report made while the owner
   * goes from one ensure to the next may mix the two, which is harmless. */
  atomic_int line;
  _Atomic(const char *) file;
  atomic_int_least64_t since_ms;

  /* Written before the slot is linked, then read by all. */
  struct record *record;      /* a reference */
  int64_t thread_id;          /* the kernel's */
  struct pyhold_slot *next;   /* in the gate's list; under the lock */
  struct pyhold_slot **pprev; /* under the lock */

  /* The owner's alone. */
  struct pyhold_slot *next_of_thread;
  struct _ts *state;   /* made by pyhold, in force now */
  struct _ts *vouched; /* see thread_knows() */
};

struct gate {
  /* Written once. Apart from the holds, whose line moves between cores. */
  _Alignas(CACHE_LINE) atomic_bool closed;
  struct pyhold_slot *slots; /* under the lock */
  /* Bit 0: closed; above it, the count. */
  _Alignas(CACHE_LINE) atomic_uint_least64_t holds;
};

/* Say what contract was broken, and abort(). */
_Noreturn void ph_fatal(const char *what);

void ph_lock(void);
void ph_unlock(void);
/* Requires: the lock. Returns when a holder of a closed gate has left, or
 * after `ms`, or for no reason. */
void ph_wait_for_leaver(int64_t ms);
/* Milliseconds on a clock that never goes back; coarse, and cheap to read. */
int64_t ph_now_ms(void);

/* Requires: the lock. */
void ph_gate_link(struct gate *gate, struct pyhold_slot *slot);
void ph_gate_unlink(struct pyhold_slot *slot);
void ph_gate_close(struct gate *gate);
/* Whether nothing holds the gate but, perhaps, slots of thread `except`.
 * Requires: the lock; the gate is closed. */
bool ph_gate_is_idle(struct gate *gate, int64_t except);

/* Requires, of these three: the caller owns the slot, and it is linked. */
bool ph_slot_enter(struct gate *gate, struct pyhold_slot *slot);
/* Requires: the caller has a hold on the gate. */
void ph_slot_enter_pinned(struct pyhold_slot *slot);
void ph_slot_leave(struct gate *gate, struct pyhold_slot *slot);

/* Requires: the gate's memory outlives the call. */
bool ph_gate_hold(struct gate *gate);
/* Requires, of these two: the caller owns a hold. */
void ph_gate_dup(struct gate *gate);
void ph_gate_drop(struct gate *gate);
int64_t ph_gate_holds(struct gate *gate);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#endif /* PYHOLD_SRC_GATE_H_ */
