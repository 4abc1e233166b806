#include "registry.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "copies.h"
#include "deferred.h"
#include "service.h"

/* How often the waiting thread looks for Ctrl-C. */
#define INTERRUPT_CHECK_MS 100
#define DEFAULT_WARN_AFTER_MS 10000

/* Ids that were READY once and are DEAD now: [first, last], ascending, with
 * gaps between. CPython counts upwards, so that a process which makes and ends
 * interpreters for ever keeps one or two of these. */
struct ended_ids {
  int64_t first, last;
  struct ended_ids *next;
};

/* All under the lock. */
static struct record *records;
static struct ended_ids *ended;
static bool runtime_closing; /* from the main one's close until it is gone */
static bool main_is_asked;   /* ph_port_adopt_main(), and has not come yet */
static pyhold_wait_policy policy;

/* --- Records --- */

static struct record *record_new(port_interp *interp) {
  ph_gate_init();
  ph_service_init();
  struct record *r = aligned_alloc(_Alignof(struct record), sizeof *r);
  struct ended_ids *e = malloc(sizeof *e);
  if (r == NULL || e == NULL) {
    free(r);
    free(e);
    return NULL;
  }
  memset(r, 0, sizeof *r);
  r->interp = interp;
  r->id = ph_port_interp_id(interp);
  r->is_main = ph_port_interp_is_main(interp);
  r->ended = e;
  atomic_init(&r->refs, 2); /* the list's, the cookie's */
  return r;
}

void ph_record_ref(struct record *r) {
  /* relaxed: the caller has a reference already, or the lock. */
  atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
}

/* pyhold_on_close(): what is to be called. */
struct close_call {
  void (*fn)(void *);
  void *arg;
  struct close_call *next;
};

void ph_record_unref(struct record *r) {
  /* acq_rel: whoever frees comes after all other users. */
  if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) return;
  if (r->gate.slots != NULL)
    ph_fatal("an interpreter's record is freed that threads still use");
  ph_copies_leave(r);
  while (r->orphans != NULL) { /* CPython had their states */
    struct pyhold_slot *orphan = r->orphans;
    r->orphans = orphan->next;
    free(orphan);
  }
  while (r->close_calls != NULL) { /* there was no gate to close */
    struct close_call *call = r->close_calls;
    r->close_calls = call->next;
    free(call);
  }
  free(r->ended);
  free(r);
}

/* Requires: the lock. */
static void remember_ended(struct ended_ids *e, int64_t id) {
  struct ended_ids **at = &ended;
  while (*at != NULL && (*at)->last < id - 1) at = &(*at)->next;
  struct ended_ids *next = *at; /* the first that ends at id - 1 or later */
  if (next == NULL || next->first > id + 1) {
    *e = (struct ended_ids){.first = id, .last = id, .next = next};
    *at = e;
    return;
  }
  free(e);
  if (id < next->first) next->first = id;
  if (id > next->last) next->last = id;
  struct ended_ids *after = next->next;
  if (after != NULL && after->first <= next->last + 1) { /* the gap is gone */
    next->last = after->last;
    next->next = after->next;
    free(after);
  }
}

/* Requires: the lock. */
static bool has_ended(int64_t id) {
  for (struct ended_ids *e = ended; e != NULL && e->first <= id; e = e->next)
    if (id <= e->last) return true;
  return false;
}

/* Requires: the lock; the gate is closed. Returns whether the caller is to
 * drop the list's reference, after ph_unlock(). */
static bool kill_record(struct record *r) {
  if (atomic_load_explicit(&r->dead, memory_order_relaxed)) return false;
  /* release: pairs with the readers' acquire: they see it closed. */
  atomic_store_explicit(&r->dead, true, memory_order_release);
  for (struct record **at = &records; *at != NULL; at = &(*at)->next) {
    if (*at == r) {
      *at = r->next;
      break;
    }
  }
  if (atomic_load_explicit(&r->ready, memory_order_relaxed)) {
    remember_ended(r->ended, r->id);
    r->ended = NULL;
  }
  /* A wait that was given up leaves holds behind: their release comes. */
  return ph_gate_holds(&r->gate) == 0;
}

/* --- Registration --- */

static bool main_is_ready(void) {
  struct record *main_record = ph_registry_find_main();
  if (main_record == NULL) return false;
  ph_record_unref(main_record);
  return true;
}

/* Pin this library in memory: CPython is about to hold pointers into it. */
static void stay_loaded(void) {
  Dl_info here;
  /* An executable is never unloaded, so there is nothing to pin. */
  if (dladdr((void *)(uintptr_t)stay_loaded, &here) != 0)
    (void)dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

/* Make what the cookie is for. NULL: no memory, or too late (`*status`). */
static struct record *adopt_new(port_interp *interp, pyhold_status *status) {
  struct record *r = record_new(interp);
  if (r == NULL) {
    *status = PYHOLD_ENOMEM;
    return NULL;
  }
  ph_lock();
  if (runtime_closing) {
    ph_unlock();
    free(r->ended);
    free(r);
    *status = PYHOLD_EFINALIZING;
    return NULL;
  }
  r->next = records;
  records = r;
  ph_unlock();

  stay_loaded();
  struct record *winner =
      ph_copies_join(r) ? ph_port_cookie_set(interp, r) : NULL;
  if (winner == r) return r;
  /* Another thread was first, or there is no memory. Nobody saw ours, but the
   * end of the main interpreter, which may have taken it out of the list. */
  ph_lock();
  bool listed = kill_record(r);
  ph_unlock();
  if (listed) ph_record_unref(r);
  ph_record_unref(r);
  *status = PYHOLD_ENOMEM;
  return winner;
}

/* Have the main interpreter adopted, if it is not: its end ends `r`. */
static bool adopt_main(void) {
  if (main_is_ready()) return true;
  ph_lock();
  bool asked = main_is_asked;
  main_is_asked = true;
  ph_unlock();
  /* Once is enough: CPython takes 32 such calls, until it gets to make them. */
  if (asked || ph_port_adopt_main()) return true;
  ph_lock();
  main_is_asked = false;
  ph_unlock();
  return false;
}

/* Two threads may both come here, and register the gate twice: the second
 * callback finds the record DEAD and does nothing. Waiting for the first one
 * instead would block with the GIL. A failure leaves the record HIDDEN, so that
 * the next call tries again. */
static pyhold_status make_ready(struct record *r) {
  /* relaxed, both: at worst it is registered once more. */
  if (!atomic_load_explicit(&r->registered, memory_order_relaxed)) {
    pyhold_status status = ph_port_register_gate(r);
    if (status != PYHOLD_OK) return status;
    atomic_store_explicit(&r->registered, true, memory_order_relaxed);
  }
  /* Asked afterwards: if it is not too late now, it was not then. */
  if (ph_port_gate_is_late()) return PYHOLD_EFINALIZING;
  return r->is_main || adopt_main() ? PYHOLD_OK : PYHOLD_ENOMEM;
}

pyhold_status ph_registry_adopt(port_interp *interp, struct record **out) {
  if (!ph_port_fits()) return PYHOLD_EMISUSE;
  pyhold_status status = PYHOLD_OK;
  struct record *r = ph_port_cookie(interp);
  /* Late, a cookie would outlive the dict that it is for, and importing atexit is
   * fatal once the modules are gone. */
  if (r == NULL && ph_port_gate_is_late()) return PYHOLD_EFINALIZING;
  if (r == NULL) r = adopt_new(interp, &status);
  if (r == NULL) return status;
  ph_record_ref(r); /* the interpreter, which is attached, keeps the cookie's */

  /* acquire: pairs with the release below: the gate is registered. */
  if (!atomic_load_explicit(&r->ready, memory_order_acquire)) {
    status = make_ready(r);
    if (status != PYHOLD_OK) {
      ph_record_unref(r);
      return status;
    }
    atomic_store_explicit(&r->ready, true, memory_order_release);
  }
  *out = r;
  return PYHOLD_OK;
}

void ph_registry_adopt_main(port_interp *main_interp) {
  ph_lock();
  main_is_asked = false;
  ph_unlock();
  struct record *r;
  if (ph_registry_adopt(main_interp, &r) == PYHOLD_OK) ph_record_unref(r);
}

void ph_registry_adopt_main_later(void) {
  /* No memory, or too many such calls: then it is as if nobody had asked. */
  if (main_is_ready()) return;
  stay_loaded();
  (void)ph_port_adopt_main_later();
}

/* --- Lookup --- */

/* Requires: the lock. */
static struct record *find(bool (*is_it)(const struct record *, const void *),
                           const void *key) {
  for (struct record *r = records; r != NULL; r = r->next)
    if (atomic_load_explicit(&r->ready, memory_order_acquire) && is_it(r, key))
      return r;
  return NULL;
}

static bool has_interp(const struct record *r, const void *interp) {
  return r->interp == interp;
}
static bool has_id(const struct record *r, const void *id) {
  return r->id == *(const int64_t *)id;
}
static bool is_main(const struct record *r, const void *unused) {
  (void)unused;
  return r->is_main;
}

static struct record *find_ref(bool (*is_it)(const struct record *,
                                             const void *),
                               const void *key) {
  ph_lock();
  struct record *r = find(is_it, key);
  if (r != NULL) ph_record_ref(r);
  ph_unlock();
  return r;
}

struct record *ph_registry_find(port_interp *interp) {
  return find_ref(has_interp, interp);
}

struct record *ph_registry_find_main(void) { return find_ref(is_main, NULL); }

pyhold_status ph_registry_hold(int64_t id, struct record **out) {
  pyhold_status status = PYHOLD_OK;
  ph_lock();
  struct record *r = find(has_id, &id);
  if (r == NULL)
    status = has_ended(id) ? PYHOLD_EFINALIZING : PYHOLD_ENOINTERP;
  else if (!ph_gate_hold(&r->gate))
    status = PYHOLD_EFINALIZING;
  ph_unlock();
  *out = status == PYHOLD_OK ? r : NULL;
  return status;
}

bool ph_registry_has_ended(int64_t id) {
  ph_lock();
  bool ended_before = has_ended(id);
  ph_unlock();
  return ended_before;
}

/* --- Thread states that were left behind --- */

bool ph_registry_orphan(struct pyhold_slot *slot) {
  struct record *r = slot->record;
  ph_lock();
  ph_gate_unlink(slot);
  /* relaxed: under the lock. */
  bool dead = atomic_load_explicit(&r->dead, memory_order_relaxed);
  if (!dead) { /* and does not die before the lock is given up */
    ph_port_state_disown(slot->state);
    slot->next = r->orphans;
    r->orphans = slot;
  }
  ph_unlock();
  return !dead;
}

static bool has_exited(const struct pyhold_slot *orphan) {
  return !orphan->outlives || ph_thread_is_gone(orphan->thread_id);
}

bool ph_registry_has_orphans(struct record *r, bool exited) {
  ph_lock();
  struct pyhold_slot *orphan = r->orphans;
  while (exited && orphan != NULL && !has_exited(orphan)) orphan = orphan->next;
  ph_unlock();
  return orphan != NULL;
}

void ph_registry_reclaim(struct record *r, bool unclean_too) {
  struct pyhold_slot *mine = NULL;
  ph_lock();
  for (struct pyhold_slot **at = &r->orphans; *at != NULL;) {
    struct pyhold_slot *orphan = *at;
    if (has_exited(orphan) &&
        (unclean_too || ph_port_is_clean(orphan->state))) {
      *at = orphan->next;
      orphan->next = mine;
      mine = orphan;
    } else {
      at = &orphan->next;
    }
  }
  ph_unlock();
  while (mine != NULL) {
    struct pyhold_slot *orphan = mine;
    mine = orphan->next;
    ph_port_state_delete_orphan(orphan->state);
    free(orphan);
  }
}

/* --- Word of the close --- */

pyhold_status ph_registry_on_close(struct record *r, void (*fn)(void *),
                                   void *arg) {
  struct close_call *call = malloc(sizeof *call);
  if (call == NULL) return PYHOLD_ENOMEM;
  *call = (struct close_call){.fn = fn, .arg = arg};
  ph_lock();
  /* relaxed: under the lock, as the close is. */
  bool closed = atomic_load_explicit(&r->gate.closed, memory_order_relaxed);
  if (!closed) {
    call->next = r->close_calls;
    r->close_calls = call;
  }
  ph_unlock();
  if (closed) free(call);
  return closed ? PYHOLD_EFINALIZING : PYHOLD_OK;
}

bool ph_registry_on_close_cancel(struct record *r, void (*fn)(void *),
                                 void *arg) {
  ph_lock();
  while (r->running != NULL && r->running->fn == fn && r->running->arg == arg)
    ph_wait_for_leaver(1000);
  struct close_call **at = &r->close_calls;
  while (*at != NULL && ((*at)->fn != fn || (*at)->arg != arg))
    at = &(*at)->next;
  struct close_call *call = *at;
  if (call != NULL) *at = call->next;
  ph_unlock();
  free(call);
  return call != NULL;
}

/* --- The end --- */

/* What one finalization ends: one record, or all of them. */
struct ending {
  struct record *record;
  int64_t finalizing_thread_id;
  int64_t began_ms;
  int64_t warn_at_ms; /* after `began_ms`; INT64_MAX: never */
};

/* The records that end with e->record: calls `each` for them.
 * Requires: the lock. `each` may take its record out of the list. */
static void for_each_ending(const struct ending *e,
                            void (*each)(const struct ending *, struct record *,
                                         void *),
                            void *arg) {
  struct record *next;
  if (!e->record->is_main) {
    each(e, e->record, arg);
    return;
  }
  for (struct record *r = records; r != NULL; r = next) {
    next = r->next;
    each(e, r, arg);
  }
}

static void close_one(const struct ending *e, struct record *r, void *unused) {
  (void)unused;
  ph_gate_close(&r->gate);
  /* relaxed: only the thread itself acts on it. */
  atomic_store_explicit(&r->finalizing_thread_id, e->finalizing_thread_id,
                        memory_order_relaxed);
}

static void check_one(const struct ending *e, struct record *r, void *idle) {
  if (!ph_gate_is_idle(&r->gate, e->finalizing_thread_id))
    *(bool *)idle = false;
}

/* Requires: the lock. */
static bool all_idle(const struct ending *e) {
  bool idle = true;
  for_each_ending(e, check_one, &idle);
  return idle;
}

static void find_close_call(const struct ending *e, struct record *r,
                            void *found) {
  (void)e;
  if (r->close_calls != NULL) *(struct record **)found = r;
}

/* Requires: detached; the gates are closed, so no calls are added. */
static void make_close_calls(const struct ending *e) {
  struct record *r;
  ph_lock();
  while (r = NULL, for_each_ending(e, find_close_call, &r), r != NULL) {
    struct close_call *call = r->close_calls;
    r->close_calls = call->next;
    r->running = call;
    ph_record_ref(r);
    ph_unlock();
    call->fn(call->arg);
    ph_lock();
    r->running = NULL;
    ph_wake(); /* ph_registry_on_close_cancel() */
    ph_unlock();
    free(call);
    ph_record_unref(r);
    ph_lock();
  }
  ph_unlock();
}

/* What is left of what one finalization ended. */
struct remains {
  struct record *doomed;     /* whose last reference is to be dropped */
  pyhold_deferred *deferred; /* to be run with `false` */
};

static void end_one(const struct ending *e, struct record *r, void *arg) {
  (void)e;
  struct remains *remains = arg;
  pyhold_deferred **end = &remains->deferred;
  while (*end != NULL) end = &(*end)->next;
  *end = ph_deferred_give_up(r);
  if (kill_record(r)) {
    r->next = remains->doomed;
    remains->doomed = r;
  }
}

/* Nothing holds them any more, and what was deferred in e->record is done. */
static void finish(const struct ending *e) {
  struct remains remains = {NULL, NULL};
  ph_lock();
  for_each_ending(e, end_one, &remains);
  ph_unlock();
  ph_deferred_run_late(remains.deferred);
  while (remains.doomed != NULL) {
    struct record *r = remains.doomed;
    remains.doomed = r->next;
    ph_record_unref(r);
  }
}

/* --- The report --- */

static void print_report(const pyhold_wait_report *report) {
  fprintf(stderr,
          "pyhold: interpreter %" PRId64 " has waited %.1f s to finalize%s\n",
          report->interp_id, (double)report->waited_ms / 1000,
          report->giving_up ? ", and waits no longer. Still holding it:"
                            : ". Holding it:");
  for (size_t i = 0; i < report->holder_count; ++i) {
    const pyhold_holder *h = report->holders[i];
    char place[PLACE_TEXT_SIZE];
    ph_place_text((struct place){h->file, h->line}, place);
    fprintf(stderr,
            "pyhold:   thread %" PRId64
            " \"%s\" for %.1f s or more, since %s%s\n",
            h->thread_id, h->thread_name, (double)h->held_ms / 1000, place,
            h->is_finalizing_thread
                ? " (it is the thread that finalizes: not waited for)"
                : "");
  }
  if (report->holds > 0)
    fprintf(stderr,
            "pyhold:   %" PRId64
            " hold(s) that belong to no thread (InterpreterRef,"
            " pyhold_interp)\n",
            report->holds);
}

struct held {
  pyhold_wait_report report;
  struct held *next;
  const pyhold_holder **at; /* report.holders */
  pyhold_holder holders[];
};

/* Copies who holds `r` while nothing can leave the list. Out of memory: this
 * report is left out. */
static void report_one(const struct ending *e, struct record *r, void *arg) {
  struct held **list = arg;
  size_t count = 0;
  for (struct pyhold_slot *s = r->gate.slots; s != NULL; s = s->next) ++count;
  struct held *held = calloc(
      1, sizeof *held + count * (sizeof *held->holders + sizeof *held->at));
  if (held == NULL) return;
  held->at = (const pyhold_holder **)&held->holders[count];
  int64_t now = ph_now_ms();
  held->report = (pyhold_wait_report){.size = sizeof held->report,
                                      .interp_id = r->id,
                                      .waited_ms = now - e->began_ms,
                                      .holds = ph_gate_holds(&r->gate),
                                      .holders = held->at};
  for (struct pyhold_slot *s = r->gate.slots; s != NULL; s = s->next) {
    /* acquire: what the owner wrote before it. */
    if (!atomic_load_explicit(&s->active, memory_order_acquire)) continue;
    /* relaxed: see struct pyhold_slot. */
    int64_t since = atomic_load_explicit(&s->since_ms, memory_order_relaxed);
    if (since == SINCE_BEFORE_CLOSE) since = e->began_ms;
    pyhold_holder *holder = &held->holders[held->report.holder_count];
    *holder = (pyhold_holder){
        .size = sizeof *holder,
        .thread_id = s->thread_id,
        .held_ms = now - since,
        .file = atomic_load_explicit(&s->file, memory_order_relaxed),
        .line = atomic_load_explicit(&s->line, memory_order_relaxed),
        .is_finalizing_thread = s->thread_id == e->finalizing_thread_id};
    held->at[held->report.holder_count++] = holder;
  }
  if (held->report.holder_count == 0 && held->report.holds == 0) {
    free(held);
    return;
  }
  held->next = *list;
  *list = held;
}

/* Requires: the lock, which is let go while the report is given. */
static void report(const struct ending *e, bool giving_up) {
  struct held *list = NULL;
  for_each_ending(e, report_one, &list);
  pyhold_wait_policy p = policy;
  ph_unlock();
  while (list != NULL) {
    struct held *held = list;
    list = held->next;
    held->report.giving_up = giving_up;
    /* Not under the lock: it reads a file. The thread may be gone by now. */
    for (size_t i = 0; i < held->report.holder_count; ++i)
      ph_thread_name(held->holders[i].thread_id, held->holders[i].thread_name);
    if (p.report != NULL)
      p.report(&held->report, p.arg);
    else
      print_report(&held->report);
    free(held);
  }
  ph_lock();
}

/* --- The wait --- */

static int64_t default_warn_after_ms(void) {
  const char *text = getenv("PYHOLD_WARN_AFTER_MS");
  char *end;
  if (text != NULL && *text != '\0') {
    long long ms = strtoll(text, &end, 10);
    if (*end == '\0' && ms < 0) return INT64_MAX;
    if (*end == '\0' && ms > 0) return ms;
  }
  return DEFAULT_WARN_AFTER_MS;
}

/* Requires: the lock. */
static int64_t warn_after_ms(int64_t default_ms) {
  if (policy.warn_after_ms < 0) return INT64_MAX;
  return policy.warn_after_ms > 0 ? policy.warn_after_ms : default_ms;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Wait until nothing holds what ends, or the limit is reached, or `until_ms`
 * after the beginning is past. True if the wait is over.
 * Requires: the lock; detached. */
static bool wait_for_holders(struct ending *e, int64_t until_ms) {
  while (!all_idle(e)) {
    int64_t waited = ph_now_ms() - e->began_ms;
    int64_t limit =
        policy.give_up_after_ms > 0 ? policy.give_up_after_ms : INT64_MAX;
    if (waited >= limit) {
      report(e, /*giving_up=*/true);
      return true;
    }
    if (waited >= until_ms) return false;
    if (waited >= e->warn_at_ms) {
      e->warn_at_ms *= 2;
      report(e, /*giving_up=*/false);
      continue;
    }
    /* At most a minute, so that no sum overflows. */
    ph_wait_for_leaver(
        least(60000, least(limit, least(until_ms, e->warn_at_ms)) - waited));
  }
  return true;
}

static port_state *detach_current(void) {
  port_state *maybe;
  port_state *state = ph_port_current(&maybe);
  if (state == NULL) state = maybe; /* it runs Python code: it is attached */
  ph_port_detach(state);
  return state;
}

/* Wait on the finalizing thread itself. Requires: attached. */
static void wait_here(struct ending *e) {
  int64_t until_ms = 0;
  bool over;
  do {
    until_ms += INTERRUPT_CHECK_MS;
    port_state *state = detach_current();
    ph_lock();
    over = wait_for_holders(e, until_ms);
    ph_unlock();
    ph_port_attach(state);
    if (over || !ph_port_interrupted()) continue;
    over = true;
    ph_lock();
    report(e, /*giving_up=*/true);
    ph_unlock();
  } while (!over);
}

/* Make the calls of pyhold_on_close(), detached. */
static void tell(const struct ending *e) {
  struct record *r = NULL;
  ph_lock();
  for_each_ending(e, find_close_call, &r);
  ph_unlock();
  if (r == NULL) return;
  port_state *state = detach_current();
  make_close_calls(e);
  ph_port_attach(state);
}

void ph_registry_callbacks_run(void *cookie) {
  struct record *r = cookie;
  /* relaxed: for the same thread. */
  atomic_store_explicit(&r->ran_callbacks, true, memory_order_relaxed);
  tell(&(struct ending){.record = r});
}

bool ph_registry_has_run_callbacks(void *cookie) {
  struct record *r = cookie;
  return atomic_load_explicit(&r->ran_callbacks, memory_order_relaxed);
}

void ph_registry_finalize(void *cookie, bool may_wait) {
  struct ending e = {.record = cookie,
                     .finalizing_thread_id = ph_this_thread_id()};
  /* relaxed: under the GIL, and checked again under the lock. */
  if (atomic_load_explicit(&e.record->dead, memory_order_relaxed)) return;
  ph_gate_prepare_close();
  ph_lock();
  if (atomic_load_explicit(&e.record->dead, memory_order_relaxed)) {
    ph_unlock();
    return;
  }
  if (e.record->is_main) runtime_closing = true;
  for_each_ending(&e, close_one, NULL);
  ph_unlock();
  if (may_wait) tell(&e);
  const int64_t default_ms = default_warn_after_ms();
  ph_lock();
  e.began_ms = ph_now_ms();
  e.warn_at_ms = warn_after_ms(default_ms);
  bool idle = all_idle(&e);
  ph_unlock();
  if (!idle && may_wait) wait_here(&e);
  ph_deferred_end(e.record);
  finish(&e);
}

void ph_registry_gate_lost(void *cookie) {
  struct record *r = cookie;
  if (atomic_load_explicit(&r->dead, memory_order_relaxed)) return;
  atomic_store_explicit(&r->ran_callbacks, false, memory_order_relaxed);
  /* release: pairs with ph_registry_gate_is_lost(). */
  atomic_store_explicit(&r->gate_lost, true, memory_order_release);
  /* Not here: atexit is in the middle of its list. */
  if (!r->is_main || !ph_port_register_main_gate_later(r)) ph_service_wake(r);
}

void ph_registry_register_again(void *cookie) {
  struct record *r = cookie;
  if (!ph_registry_gate_is_lost(r)) return;
  if (ph_port_register_gate(r) == PYHOLD_OK)
    atomic_store_explicit(&r->gate_lost, false, memory_order_relaxed);
}

void ph_registry_interp_gone(void *cookie) {
  struct record *r = cookie;
  /* release: pairs with thread_knows(). */
  atomic_store_explicit(&r->gone, true, memory_order_release);
  ph_lock();
  /* Closed already, unless someone took the gate out of atexit. */
  ph_gate_close(&r->gate);
  pyhold_deferred *late = ph_deferred_give_up(r);
  if (r->is_main) runtime_closing = main_is_asked = false;
  bool unref = kill_record(r);
  ph_unlock();
  ph_deferred_run_late(late);
  if (unref) ph_record_unref(r);
  ph_record_unref(r);
}

/* --- Fork ---
 *
 * The child is as a process that has just imported its modules. Only the thread
 * that forked exists: so all slots but its own are gone, and so are the orphans;
 * CPython deletes their states itself. It deletes the other interpreters, too,
 * without their atexit callbacks. Holds of before the fork are not waited for
 * (thread.h). Calls of pyhold_on_close() are for threads that do not exist. What is
 * deferred is the child's to do, in its own memory. */

static void free_slots(struct pyhold_slot *slot) {
  while (slot != NULL) {
    struct pyhold_slot *gone = slot;
    slot = slot->next;
    free(gone);
  }
}

static void after_fork(struct record *r, const void *self) {
  for (struct pyhold_slot *s = r->gate.slots, *next; s != NULL; s = next) {
    next = s->next;
    if (s->owner == self) continue;
    ph_gate_unlink(s);
    free(s);
    /* Not the last reference: the list has one, or the interpreter. */
    atomic_fetch_sub_explicit(&r->refs, 1, memory_order_relaxed);
  }
  free_slots(r->orphans);
  r->orphans = NULL;
  r->running = NULL;
  while (r->close_calls != NULL) {
    struct close_call *call = r->close_calls;
    r->close_calls = call->next;
    free(call);
  }
  /* They count no more, but may still be used: the record is kept for them. */
  if (ph_gate_holds(&r->gate) > 0) ph_record_ref(r);
  ph_gate_forget_holds(&r->gate);
  if (atomic_load_explicit(&r->finalizing_thread_id, memory_order_relaxed) !=
      ph_this_thread_id())
    atomic_store_explicit(&r->finalizing_thread_id, 0, memory_order_relaxed);
  ph_deferred_after_fork(r);
}

pyhold_deferred *ph_registry_after_fork(const void *self) {
  struct remains remains = {NULL, NULL};
  main_is_asked = false;
  for (struct record *r = records, *next; r != NULL; r = next) {
    next = r->next;
    after_fork(r, self);
    if (r->is_main) continue;
    ph_gate_close(&r->gate);
    /* Whoever comes back to it finds nothing, and goes on. */
    atomic_store_explicit(&r->finalizing_thread_id, ph_this_thread_id(),
                          memory_order_relaxed);
    end_one(NULL, r, &remains);
  }
  /* The list's references to them are lost: a view or a slot may have others. */
  return remains.deferred;
}

void pyhold_set_wait_policy(const pyhold_wait_policy *p) {
  const size_t first_version =
      offsetof(pyhold_wait_policy, arg) + sizeof policy.arg;
  pyhold_wait_policy given = {0};
  if (p != NULL) {
    size_t size = p->size != 0 ? p->size : first_version;
    memcpy(&given, p, size < sizeof given ? size : sizeof given);
  }
  ph_lock();
  policy = given;
  ph_wake(); /* a waiter may have slept with the old one's limit in mind */
  ph_unlock();
}
