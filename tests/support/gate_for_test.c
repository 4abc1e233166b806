#include "gate_for_test.h"

#include <stdlib.h>
#include <string.h>

#include "gate.h"

struct test_gate {
  struct gate gate;
  int count;
  struct pyhold_slot *slots;
};

static void *zeroed(size_t size) {
  return memset(aligned_alloc(CACHE_LINE, size), 0, size);
}

bool test_gate_use_barrier(bool on) {
#ifdef PH_NO_MEMBARRIER
  return !on;
#else
  ph_gate_init();
  static bool has_it, known;
  if (!known) has_it = ph_has_barrier;
  known = true;
  ph_has_barrier = on && has_it;
  return ph_has_barrier == on;
#endif
}

struct test_gate *test_gate_new(int slots) {
  struct test_gate *g = zeroed(sizeof *g + (-sizeof *g) % CACHE_LINE);
  g->count = slots;
  g->slots = zeroed((size_t)slots * sizeof *g->slots);
  for (int i = 0; i < slots; ++i) {
    g->slots[i].thread_id = i + 1;
    ph_lock();
    ph_gate_link(&g->gate, &g->slots[i]);
    ph_unlock();
  }
  return g;
}

void test_gate_free(struct test_gate *g) {
  free(g->slots);
  free(g);
}

void test_gate_reset(struct test_gate *g) {
  atomic_store(&g->gate.closed, false);
  atomic_store(&g->gate.holds, 0);
  for (int i = 0; i < g->count; ++i) atomic_store(&g->slots[i].active, false);
}

void test_gate_close(struct test_gate *g) {
  ph_lock();
  ph_gate_close(&g->gate);
  ph_unlock();
}

bool test_gate_is_idle(struct test_gate *g, int64_t except) {
  ph_lock();
  bool idle = ph_gate_is_idle(&g->gate, except);
  ph_unlock();
  return idle;
}

bool test_gate_enter(struct test_gate *g, int slot) {
  return ph_slot_enter(&g->gate, &g->slots[slot]);
}
void test_gate_enter_pinned(struct test_gate *g, int slot) {
  ph_slot_enter_pinned(&g->slots[slot]);
}
void test_gate_leave(struct test_gate *g, int slot) {
  ph_slot_leave(&g->gate, &g->slots[slot]);
}
bool test_gate_hold(struct test_gate *g) { return ph_gate_hold(&g->gate); }
bool test_gate_join(struct test_gate *g) { return ph_gate_join(&g->gate); }
void test_gate_dup(struct test_gate *g) { ph_gate_dup(&g->gate); }
void test_gate_drop(struct test_gate *g) { ph_gate_drop(&g->gate); }
int64_t test_gate_holds(struct test_gate *g) { return ph_gate_holds(&g->gate); }

bool test_gate_close_and_wait(struct test_gate *g, int64_t limit_ms) {
  bool woken = true;
  ph_lock();
  ph_gate_close(&g->gate);
  while (!ph_gate_is_idle(&g->gate, 0)) {
    int64_t before = ph_now_ms();
    ph_wait_for_leaver(limit_ms);
    bool slept_on = ph_now_ms() - before >= limit_ms - 20;
    if (slept_on && ph_gate_is_idle(&g->gate, 0)) woken = false;
  }
  ph_unlock();
  return woken;
}

size_t test_slot_size(void) { return sizeof(struct pyhold_slot); }
