/* The gate's functions in a form that C++ can include: gate.h is C11. */
#ifndef PYHOLD_TESTS_GATE_FOR_TEST_H_
#define PYHOLD_TESTS_GATE_FOR_TEST_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct test_gate;

/* An open gate with `slots` slots; slot i is thread i + 1's. */
/* How enter and close are ordered in gates from now on: by the closer's
 * barrier, or by seq_cst accesses. False: not here. No gate is in use. */
bool test_gate_use_barrier(bool on);

struct test_gate *test_gate_new(int slots);
void test_gate_free(struct test_gate *g);
void test_gate_reset(struct test_gate *g);

void test_gate_close(struct test_gate *g);
bool test_gate_is_idle(struct test_gate *g, int64_t except);
bool test_gate_enter(struct test_gate *g, int slot);
void test_gate_enter_pinned(struct test_gate *g, int slot);
void test_gate_leave(struct test_gate *g, int slot);
bool test_gate_hold(struct test_gate *g);
bool test_gate_join(struct test_gate *g);
void test_gate_dup(struct test_gate *g);
void test_gate_drop(struct test_gate *g);
int64_t test_gate_holds(struct test_gate *g);

/* Close, and wait until it is idle. False: it slept for `limit_ms`, and was
 * idle when it looked: nobody woke it. */
bool test_gate_close_and_wait(struct test_gate *g, int64_t limit_ms);

size_t test_slot_size(void);

#ifdef __cplusplus
}
#endif

#endif /* PYHOLD_TESTS_GATE_FOR_TEST_H_ */
