#include "gate.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HOLDS_CLOSED UINT64_C(1)
#define HOLDS_ONE UINT64_C(2)

static pthread_mutex_t the_lock = PTHREAD_MUTEX_INITIALIZER;
/* Static, and for all gates: the last holder of a gate may signal it after the
 * gate's memory is gone. */
static pthread_cond_t someone_left = PTHREAD_COND_INITIALIZER;
static pthread_cond_t work_came = PTHREAD_COND_INITIALIZER;

/* --- Messages --- */

const char *ph_place_text(struct place place, char text[PLACE_TEXT_SIZE]) {
  if (place.file == NULL)
    snprintf(text, PLACE_TEXT_SIZE, "an ensure of the C API");
  else if (place.line == 0)
    snprintf(text, PLACE_TEXT_SIZE, "%s", place.file);
  else
    snprintf(text, PLACE_TEXT_SIZE, "%s:%d", place.file, place.line);
  return text;
}

void ph_fatal(const char *what) {
  char name[THREAD_NAME_SIZE];
  const int64_t id = ph_this_thread_id();
  ph_thread_name(id, name);
  fprintf(stderr, "pyhold: fatal: %s (on thread %" PRId64 " \"%s\")\n", what,
          id, name);
  abort();
}

void ph_fatal_guard(const char *what, struct place guard, int64_t thread_id,
                    const struct place *other) {
  char name[THREAD_NAME_SIZE], others_name[THREAD_NAME_SIZE];
  char text[PLACE_TEXT_SIZE], others_text[PLACE_TEXT_SIZE];
  const int64_t id = ph_this_thread_id();
  ph_thread_name(id, name);
  ph_thread_name(thread_id, others_name);
  /* One call, so that lines of other threads don't come between. */
  fprintf(stderr,
          "pyhold: fatal: %s\n"
          "pyhold:   on thread %" PRId64
          " \"%s\"\n"
          "pyhold:   the guard: %s, of thread %" PRId64
          " \"%s\"\n"
          "pyhold:   the newest other guard of this thread: %s\n",
          what, id, name, ph_place_text(guard, text), thread_id, others_name,
          other != NULL ? ph_place_text(*other, others_text) : "none is known");
  abort();
}

void ph_lock(void) { pthread_mutex_lock(&the_lock); }
void ph_unlock(void) { pthread_mutex_unlock(&the_lock); }

static void wait_for(pthread_cond_t *what, int64_t ms) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += ms / 1000;
  until.tv_nsec += (ms % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec += 1;
    until.tv_nsec -= 1000000000;
  }
  pthread_cond_clockwait(what, &the_lock, CLOCK_MONOTONIC, &until);
}

void ph_wait_for_leaver(int64_t ms) { wait_for(&someone_left, ms); }
void ph_wake(void) { pthread_cond_broadcast(&someone_left); }

void ph_wait_for_work(int64_t ms) { wait_for(&work_came, ms); }
void ph_wake_for_work(void) { pthread_cond_signal(&work_came); }

void ph_renew_waits(void) {
  someone_left = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
  work_came = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

int64_t ph_this_thread_id(void) { return (int64_t)syscall(SYS_gettid); }

bool ph_thread_is_gone(int64_t thread_id) {
  const int before = errno; /* a guard asks, which leaves errno alone */
  const bool gone =
      syscall(SYS_tgkill, getpid(), (pid_t)thread_id, 0) != 0 && errno == ESRCH;
  errno = before;
  return gone;
}

void ph_name_this_thread(const char *name) {
  (void)pthread_setname_np(pthread_self(), name);
}

void ph_thread_name(int64_t thread_id, char name[THREAD_NAME_SIZE]) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%" PRId64 "/comm", thread_id);
  name[0] = '\0';
  FILE *f = fopen(path, "re");
  if (f == NULL) return;
  if (fgets(name, THREAD_NAME_SIZE, f) != NULL)
    name[strcspn(name, "\n")] = '\0';
  fclose(f);
}

void ph_gate_wake_waiters(void) {
  ph_lock();
  ph_wake();
  ph_unlock();
}

int64_t ph_now_ms(void) {
#ifdef CLOCK_MONOTONIC_COARSE
  const clockid_t clock = CLOCK_MONOTONIC_COARSE;
#else
  const clockid_t clock = CLOCK_MONOTONIC;
#endif
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- The barrier --- */

#ifndef PH_NO_MEMBARRIER
bool ph_has_barrier;
static pthread_once_t init_once = PTHREAD_ONCE_INIT;

static bool membarrier(int command) {
#ifdef SYS_membarrier
  return syscall(SYS_membarrier, command, 0, 0) == 0;
#else
  (void)command;
  return false;
#endif
}

/* From linux/membarrier.h, which is newer than some systems' headers. */
enum {
  QUERY = 0,
  PRIVATE_EXPEDITED = 1 << 3,
  REGISTER_PRIVATE_EXPEDITED = 1 << 4
};

/* A process must register before it may use the call, which takes some 10 ms
 * where it has several threads. So the first view only asks whether the kernel
 * has it; the first close registers. */
static void init(void) {
#ifdef SYS_membarrier
  long has = syscall(SYS_membarrier, QUERY, 0, 0);
  ph_has_barrier = has > 0 && (has & PRIVATE_EXPEDITED) != 0 &&
                   (has & REGISTER_PRIVATE_EXPEDITED) != 0;
#endif
}

void ph_gate_init(void) { pthread_once(&init_once, init); }

void ph_gate_prepare_close(void) {
  if (ph_has_barrier) (void)membarrier(REGISTER_PRIVATE_EXPEDITED);
}

static void barrier(void) {
  if (!ph_has_barrier || membarrier(PRIVATE_EXPEDITED)) return;
  if (membarrier(REGISTER_PRIVATE_EXPEDITED) && membarrier(PRIVATE_EXPEDITED))
    return;
  /* A sandbox has taken the call away since ph_gate_init(). No store stays in a
   * core's buffer for anything near as long as this. */
  struct timespec pause = {.tv_nsec = 10000000};
  nanosleep(&pause, NULL);
}
#else
void ph_gate_init(void) {}
void ph_gate_prepare_close(void) {}
static void barrier(void) {}
#endif

/* --- The gate --- */

void ph_gate_link(struct gate *gate, struct pyhold_slot *slot) {
  slot->next = gate->slots;
  slot->pprev = &gate->slots;
  if (slot->next != NULL) slot->next->pprev = &slot->next;
  gate->slots = slot;
}

void ph_gate_unlink(struct pyhold_slot *slot) {
  *slot->pprev = slot->next;
  if (slot->next != NULL) slot->next->pprev = slot->pprev;
}

void ph_gate_close(struct gate *gate) {
  /* relaxed: a single word, whose writers all read-modify-write it. */
  atomic_fetch_or_explicit(&gate->holds, HOLDS_CLOSED, memory_order_relaxed);
  /* seq_cst: before the reads in ph_gate_is_idle() [P1] [P2], by barrier()
   * or by itself. */
  atomic_store_explicit(&gate->closed, true, memory_order_seq_cst);
  barrier();
}

bool ph_gate_is_idle(struct gate *gate, int64_t except) {
  /* The holds first [INV2]. acquire: pairs with ph_gate_drop() [P3]. */
  if (atomic_load_explicit(&gate->holds, memory_order_acquire) >> 1 != 0)
    return false;
  for (struct pyhold_slot *s = gate->slots; s != NULL; s = s->next) {
    /* seq_cst: after the write in ph_gate_close() [P1] [P2]; acquire: [P3]. */
    if (atomic_load_explicit(&s->active, memory_order_seq_cst) &&
        s->thread_id != except)
      return false;
  }
  return true;
}

/* Count one more, unless the gate is closed with at most `idle` in the word. */
static bool hold_unless(struct gate *gate, uint64_t idle) {
  /* relaxed: a first guess, which the exchange checks. */
  uint64_t v = atomic_load_explicit(&gate->holds, memory_order_relaxed);
  do {
    if ((v & HOLDS_CLOSED) && v <= idle) return false;
    /* relaxed: a new holder reads nothing through this word. */
  } while (!atomic_compare_exchange_weak_explicit(
      &gate->holds, &v, v + HOLDS_ONE, memory_order_relaxed,
      memory_order_relaxed));
  return true;
}

bool ph_gate_hold(struct gate *gate) {
  return hold_unless(gate, UINT64_MAX); /* INV1 */
}

bool ph_gate_join(struct gate *gate) {
  return hold_unless(gate, HOLDS_CLOSED); /* INV2 */
}

void ph_gate_dup(struct gate *gate) {
  /* relaxed: as in ph_gate_hold(). */
  atomic_fetch_add_explicit(&gate->holds, HOLDS_ONE, memory_order_relaxed);
}

void ph_gate_drop(struct gate *gate) {
  /* release: pairs with ph_gate_is_idle() [P3]. From here on the gate may be
   * gone: only `old` is looked at. It tells of the close reliably, because
   * closing and dropping write the same word. */
  uint64_t old =
      atomic_fetch_sub_explicit(&gate->holds, HOLDS_ONE, memory_order_release);
  if (old < HOLDS_ONE) ph_fatal("a hold was released twice");
  if (old & HOLDS_CLOSED) ph_gate_wake_waiters();
}

void ph_gate_forget_holds(struct gate *gate) {
  /* relaxed: there is no other thread. */
  atomic_fetch_and_explicit(&gate->holds, HOLDS_CLOSED, memory_order_relaxed);
}

int64_t ph_gate_holds(struct gate *gate) {
  /* relaxed: for a report. */
  return (int64_t)(atomic_load_explicit(&gate->holds, memory_order_relaxed) >>
                   1);
}
