#include "service.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include "deferred.h"
#include "thread.h"

/* How long it stays without work. */
#define LINGER_MS 30
/* For how long it runs what is deferred before it lets others have the GIL. */
#define BATCH_MS 5
/* The same for an ensure that helps. */
#define HELP_MS 1
/* How soon it looks again for threads that have not quite exited. */
#define FIRST_RETRY_MS 1
#define LAST_RETRY_MS 64
#define STACK_BYTES ((size_t)4 << 20)

#ifdef PYHOLD_NO_SERVICE_THREAD
#define FORBIDDEN_AT_FIRST true
#else
#define FORBIDDEN_AT_FIRST false
#endif

/* All under the lock. */
static bool forbidden = FORBIDDEN_AT_FIRST;
static bool running;  /* it exists, or is about to */
static bool waiting;  /* for work: it neither runs Python nor is about to */
static bool stopping; /* for a fork, whose thread joins it */
static pthread_t thread;
static int64_t thread_id; /* the newest one's; 0: none yet */

/* Records with work, each a reference, linked by next_served. */
struct list {
  struct record *first, **end;
};
static struct list queue; /* in the order in which it came */
static struct list later; /* wait for threads that have not quite exited */

static void append(struct list *list, struct record *r) {
  if (list->first == NULL) list->end = &list->first;
  r->next_served = NULL;
  *list->end = r;
  list->end = &r->next_served;
}

static struct record *pop(struct list *list) {
  struct record *r = list->first;
  if (r != NULL) list->first = r->next_served;
  return r;
}

/* seq_cst: what is to be done is looked for after it [P5]. */
static void mark_unserved(struct record *r) {
  atomic_store_explicit(&r->served, false, memory_order_seq_cst);
}

/* There is no thread for them: leave them to the next ensure, or to whoever
 * brings more. */
static void give_to_helpers(void) {
  struct record *r;
  while ((r = pop(&queue)) != NULL || (r = pop(&later)) != NULL) {
    mark_unserved(r);
    /* relaxed: a hint. */
    atomic_store_explicit(&r->gate.help_wanted, true, memory_order_relaxed);
    ph_record_unref(r);
  }
}

/* --- The work --- */

enum outcome { DONE, MORE, LATER };

static enum outcome work(struct record *r) {
  if (!ph_deferred_is_any(r) && !ph_registry_gate_is_lost(r) &&
      !ph_registry_has_orphans(r, /*exited=*/true))
    return ph_registry_has_orphans(r, /*exited=*/false) ? LATER : DONE;
  pyhold_frame *handle;
  switch (ph_thread_enter(&handle, r, "pyhold, for what was deferred", 0, ASK,
                          PYHOLD_PER_CALL)) {
    case PYHOLD_OK:
      break;
    case PYHOLD_ENOMEM:
      return LATER;
    default: /* the gate does it, or it is too late */
      return DONE;
  }
  ph_registry_register_again(r);
  ph_registry_reclaim(r, /*unclean_too=*/true);
  bool more = ph_deferred_run(r, BATCH_MS);
  ph_thread_leave(handle, REPORT_ERROR);
  if (more) return MORE;
  return ph_registry_has_orphans(r, /*exited=*/false) ? LATER : DONE;
}

/* Requires: attached. */
static bool has_error(void) {
  port_state *maybe;
  port_state *state = ph_port_current(&maybe);
  return ph_port_has_error(state != NULL ? state : maybe);
}

void ph_service_help_now(struct record *r) {
  /* It is the caller's: destructors are not to meet it, nor to lose it. */
  if (has_error()) return;
  atomic_store_explicit(&r->gate.help_wanted, false, memory_order_relaxed);
  ph_registry_register_again(r);
  ph_registry_reclaim(r, /*unclean_too=*/true);
  if (ph_deferred_run(r, HELP_MS))
    atomic_store_explicit(&r->gate.help_wanted, true, memory_order_relaxed);
}

/* Requires: the lock. */
static void wait_for_work(int64_t ms) {
  waiting = true;
  if (!stopping) ph_wait_for_work(ms);
  waiting = false;
}

static void *serve(void *unused) {
  (void)unused;
  ph_name_this_thread("pyhold");
  int64_t retry_ms = FIRST_RETRY_MS;
  ph_lock();
  const int64_t own_id = thread_id = ph_this_thread_id();
  /* Another: what it ran forked, and in the child this is no service thread. */
  while (!stopping && thread_id == own_id) {
    struct record *r = pop(&queue);
    if (r == NULL && later.first != NULL) {
      wait_for_work(retry_ms);
      if (retry_ms < LAST_RETRY_MS) retry_ms *= 2;
      while (!stopping && (r = pop(&later)) != NULL) append(&queue, r);
      continue;
    }
    if (r == NULL) {
      if (!forbidden) wait_for_work(LINGER_MS);
      if (queue.first == NULL) break;
      continue;
    }
    mark_unserved(r);
    ph_unlock();
    enum outcome outcome = work(r);
    ph_lock();
    if (outcome != LATER) retry_ms = FIRST_RETRY_MS;
    /* Set: whoever brought more has queued it again. */
    if (outcome != DONE &&
        !atomic_exchange_explicit(&r->served, true, memory_order_seq_cst)) {
      append(outcome == MORE ? &queue : &later, r);
    } else {
      ph_unlock();
      ph_record_unref(r);
      ph_lock();
    }
  }
  if (!stopping) pthread_detach(pthread_self()); /* else it is joined */
  if (thread_id == own_id)
    running = false;
  else
    give_to_helpers();
  ph_unlock();
  return unused;
}

/* --- Starting it --- */

/* What an instruction of the thread itself raises. (Blocked, it ends the process
 * without a word.) */
static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

static bool start(void) {
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) return false;
  size_t stack;
  if (pthread_attr_getstacksize(&attr, &stack) == 0 && stack < STACK_BYTES)
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES); /* it runs Python */
  /* Not that of the thread which brings the work. */
  (void)pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
  /* Signals are for the application's threads: it starts with none, but those
   * of its own faults, so that crash handlers run. */
  sigset_t all, before;
  sigfillset(&all);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; ++i)
    sigdelset(&all, faults[i]);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = pthread_create(&thread, &attr, serve, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attr);
  return started;
}

void ph_service_wake(struct record *r) {
  /* seq_cst: after what is to be done is there [P5]. */
  if (atomic_exchange_explicit(&r->served, true, memory_order_seq_cst)) return;
  ph_lock();
  ph_record_ref(r);
  append(&queue, r);
  if (running && !forbidden)
    ph_wake_for_work();
  else if (!forbidden && !stopping && start())
    running = true;
  else
    give_to_helpers();
  ph_unlock();
}

void pyhold_set_service_thread(bool allowed) {
  ph_lock();
  forbidden = !allowed;
  if (running) ph_wake_for_work(); /* to end, if it has nothing to do */
  ph_unlock();
}

/* --- Fork ---
 *
 * The lock is taken before a fork and let go after it, on both sides: so all that
 * is under it is whole in the child. CPython takes its own locks before fork()
 * is called, and nobody who has ours wants one of them. */

static void before_fork(void) {
  ph_lock();
  /* A thread that runs Python, or waits for the GIL, which the caller may have,
   * cannot be waited for. But most often it has just done its work, and is about
   * to wait: it gets a moment. */
  for (int i = 0; i < 20 && running && !waiting; ++i) {
    if (pthread_equal(thread, pthread_self())) break; /* it forks itself */
    ph_unlock();
    const struct timespec pause = {.tv_nsec = 100000};
    nanosleep(&pause, NULL);
    ph_lock();
  }
  if (running && waiting) {
    stopping = true;
    ph_wake_for_work();
    ph_unlock();
    pthread_join(thread, NULL);
    ph_lock();
    stopping = false;
    give_to_helpers();
  }
  /* It has ended, but the kernel may count it for a moment, even if joined. */
  if (!running && thread_id != 0) {
    for (int i = 0; i < 1000 && !ph_thread_is_gone(thread_id); ++i)
      sched_yield();
    thread_id = 0;
  }
}

static void after_fork_in_parent(void) { ph_unlock(); }

static void after_fork_in_child(void) {
  running = waiting = stopping = false;
  thread_id = 0;
  give_to_helpers();
  ph_renew_waits();
  pyhold_deferred *late = ph_thread_after_fork();
  ph_unlock();
  ph_deferred_run_late(late);
}

static void init(void) {
  (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void ph_service_init(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init);
}
