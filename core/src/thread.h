/* thread: what pyhold keeps for each OS thread, and ensure and release on it.
 *
 * A thread has a stack of frames, newest first: what is in force. An ensure
 * finds the thread in one of five ways:
 *
 *   attached to      detached state   entering does            leaving undoes
 *   I                -                nothing (nests)          nothing
 *   nothing          of I             attach it                detach it
 *   nothing          none             make one, attach it      clear, delete
 *   J                of I             detach J, attach it      detach, attach J
 *   J                none             make, detach J, attach   delete, attach J
 *
 * and protects I by its slot, unless an older frame does: the frame that wrote
 * slot.active (TOOK) is the one that clears it.
 *
 * INV4  slot.active is true exactly while one frame of the slot's owner has
 *       TOOK for it, or RESTORE_TOOK for it as restore_slot.
 * INV5  A state that pyhold made is attached, or detached by something inside
 *       its frame; it is deleted before its frame is off the stack, so that
 *       Python code run by its clearing nests under that frame. */
#ifndef PYHOLD_SRC_THREAD_H_
#define PYHOLD_SRC_THREAD_H_

#include "registry.h"

/* The record of the interpreter that the caller is attached to, registered if
 * need be; a new reference. EDETACHED, or what ph_registry_adopt() says. */
pyhold_status ph_thread_adopt_current(struct record **out);

/* Enter a frame for a record that the caller keeps alive. `hold`: it is held,
 * and the hold is dropped, whatever the outcome. */
pyhold_status ph_thread_enter(pyhold_frame *frame, struct record *record,
                              bool hold, const char *file, int line);

/* The same with a frame of the thread's own, for pyhold_thread_ensure(). */
pyhold_status ph_thread_ensure(struct record *record, bool hold);

#endif /* PYHOLD_SRC_THREAD_H_ */
