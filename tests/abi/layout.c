/* What is frozen of ABI number 1 and is no function: the layout of public structs,
 * and the numbers of enums, on 64-bit Linux. A change here is another number:
 * PYHOLD_ABI_NUMBER in linkage.h. (names.txt has the functions.) */
#include <stddef.h>

#include "pyhold/core.h"

#define HAS_SIZE(type, size) \
  _Static_assert(sizeof(type) == (size), #type " has another size")
#define IS_AT(type, field, offset)                  \
  _Static_assert(offsetof(type, field) == (offset), \
                 #type "." #field " has moved")
#define IS_NUMBER(name, number) \
  _Static_assert((name) == (number), #name " has another number")

_Static_assert(PYHOLD_ABI_NUMBER == 1, "make new lists for the new number");

HAS_SIZE(pyhold_deferred, 16);
IS_AT(pyhold_deferred, next, 0);
IS_AT(pyhold_deferred, run, 8);

/* These three say their size, so fields may come at their ends: then the size here
 * grows, and nothing else changes. */
HAS_SIZE(pyhold_holder, 56);
IS_AT(pyhold_holder, size, 0);
IS_AT(pyhold_holder, thread_id, 8);
IS_AT(pyhold_holder, thread_name, 16);
IS_AT(pyhold_holder, held_ms, 32);
IS_AT(pyhold_holder, file, 40);
IS_AT(pyhold_holder, line, 48);
IS_AT(pyhold_holder, is_finalizing_thread, 52);

HAS_SIZE(pyhold_wait_report, 56);
IS_AT(pyhold_wait_report, size, 0);
IS_AT(pyhold_wait_report, interp_id, 8);
IS_AT(pyhold_wait_report, waited_ms, 16);
IS_AT(pyhold_wait_report, giving_up, 24);
IS_AT(pyhold_wait_report, holds, 32);
IS_AT(pyhold_wait_report, holder_count, 40);
IS_AT(pyhold_wait_report, holders, 48);

HAS_SIZE(pyhold_wait_policy, 40);
IS_AT(pyhold_wait_policy, size, 0);
IS_AT(pyhold_wait_policy, warn_after_ms, 8);
IS_AT(pyhold_wait_policy, give_up_after_ms, 16);
IS_AT(pyhold_wait_policy, report, 24);
IS_AT(pyhold_wait_policy, arg, 32);

HAS_SIZE(pyhold_status, 4);
IS_NUMBER(PYHOLD_OK, 0);
IS_NUMBER(PYHOLD_EFINALIZING, -1);
IS_NUMBER(PYHOLD_ENOINTERP, -2);
IS_NUMBER(PYHOLD_ENOMEM, -3);
IS_NUMBER(PYHOLD_EDETACHED, -4);
IS_NUMBER(PYHOLD_EMISUSE, -5);
IS_NUMBER(PYHOLD_ETIMEDOUT, -6);

HAS_SIZE(pyhold_keep, 4);
IS_NUMBER(PYHOLD_KEEP, 0);
IS_NUMBER(PYHOLD_PER_CALL, 1);

HAS_SIZE(pyhold_detach, 4);
IS_NUMBER(PYHOLD_DETACH_RELEASED, 0);
IS_NUMBER(PYHOLD_DETACH_HOLDING, 1);

int main(void) { return 0; }
