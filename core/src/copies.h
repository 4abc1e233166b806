/* copies: what the copies of pyhold in one process know of each other.
 *
 * Each module that embeds pyhold has a copy with gates of its own. They close one
 * after another, so a thread may be inside an ensure of copy B, for which B's gate
 * waits, and call into a module whose copy A has closed already. A must not refuse:
 * the interpreter does not finalize under this thread. So A asks the others, and
 * leans on what one of them holds.
 *
 * They meet in a capsule in the interpreter's dict, "pyhold copies v1". The layout
 * of the two structs is frozen, for copies of all ABI numbers: fields may only be
 * added at the end, and `size` says how many there are. Memory is freed with the
 * last copy's record, so that whoever has a record may walk the list.
 *
 * INV10  A copy that says it holds, says so of the calling thread, for as long as
 *        the ensure it speaks of is in force; and its gate waits for that ensure. */
#ifndef PYHOLD_SRC_COPIES_H_
#define PYHOLD_SRC_COPIES_H_

#include "first.h"
//
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

PH_HIDDEN_BEGIN

struct record;

struct pyhold_copy_v1 {
  uint32_t size;
  struct pyhold_copy_v1 *next;
  /* Whether the calling thread is inside an ensure of this copy that keeps the
   * interpreter from finalizing. Takes no lock, runs no Python code. */
  bool (*holds)(const struct pyhold_copy_v1 *copy);
  void (*free)(struct pyhold_copy_v1 *copy);
};

struct pyhold_copies_v1 {
  uint32_t size;
  atomic_uint refs; /* of copies' records */
  _Atomic(struct pyhold_copy_v1 *) first;
};

/* Enter a new record into the list of its interpreter. False: no memory.
 * Requires: attached to the interpreter. */
bool ph_copies_join(struct record *record);
/* The record is about to be freed. */
void ph_copies_leave(struct record *record);

/* Whether there are others. */
bool ph_copies_are_several(const struct record *record);
/* Whether another copy holds the record's interpreter for the calling thread. */
bool ph_copies_hold(const struct record *record);

/* Of this copy. */
bool ph_thread_holds(const struct pyhold_copy_v1 *copy);

PH_HIDDEN_END

#endif /* PYHOLD_SRC_COPIES_H_ */
