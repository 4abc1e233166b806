/* pyhold: native threads that call Python, and always get an answer.
 *
 * The whole C API. In five lines:
 *
 *     // once, attached (a module's init function is the usual place):
 *     static pyhold_view *view;
 *     if (pyhold_view_current(&view) != PYHOLD_OK) ...
 *     // on any thread, at any time:
 *     if (pyhold_thread_ensure_view(view) == PYHOLD_OK) {
 *       ...call Python: its interpreter will not finalize in this block...
 *       pyhold_thread_release();
 *     }
 *
 * Words: *attached* means that the calling OS thread has a current
 * PyThreadState (and, where there is a GIL, holds it). A *hold* is a strong
 * reference: while one exists its interpreter does not finalize. A *view* is
 * a weak one: it may be asked for a hold, and may refuse. The *gate* of an
 * interpreter is where finalization and holds meet: after the callbacks of
 * Python's atexit module it closes, once; from then on new holds and outermost
 * ensures are refused, and finalization waits for those that got in before. The
 * thread that finalizes is not refused until the interpreter is torn down: it has
 * the last word.
 *
 * No function here ever sets, clears or replaces a Python exception.
 *
 * NULL: a function that returns a status returns EMISUSE for a NULL argument. One
 * without a result does nothing. Others return NULL, false, 0, or -1 for an id. Where
 * NULL means something else, the function says so. `out` must never be NULL. The two
 * functions on the path of every call, pyhold_frame_enter_view() and
 * pyhold_frame_leave(), don't check their arguments.
 *
 * Callers in C++ want pyhold/pyhold.h instead, which makes guards of these.
 *
 * Fork: a child of os.fork() is as a process that has just imported its modules.
 * The main interpreter's gate is open, views and objects work, and the child's end
 * waits for the child's own threads and holds. The thread that forked keeps its
 * ensures. Holds of before the fork may be used and released, but are not waited
 * for; an ensure with one asks, as with a view. Other interpreters are gone, as
 * CPython deletes them; calls of pyhold_on_close() are forgotten. A child of a plain
 * fork() must not call Python before exec, and so not pyhold. */
#ifndef PYHOLD_CORE_H_
#define PYHOLD_CORE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pyhold/linkage.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------
 * Statuses
 */

/* One list makes the enum, the names and the messages.
 * Append only; a number is never reused. */
#define PYHOLD_STATUS_MAP(M)                                               \
  M(OK, 0, "success")                                                      \
  M(EFINALIZING, -1, "the interpreter is finalizing or finalized")         \
  M(ENOINTERP, -2, "no such interpreter is known to pyhold")               \
  M(ENOMEM, -3, "out of memory")                                           \
  M(EDETACHED, -4, "the calling thread has no attached thread state")      \
  M(EMISUSE, -5, "pyhold was called in a way that its contract rules out") \
  M(ETIMEDOUT, -6, "the time was up")

typedef enum PYHOLD_NODISCARD_TYPE pyhold_status {
#define PYHOLD_STATUS_(name, value, text) PYHOLD_##name = value,
  PYHOLD_STATUS_MAP(PYHOLD_STATUS_)
#undef PYHOLD_STATUS_
} pyhold_status;

/* "PYHOLD_OK", ...; "PYHOLD_UNKNOWN" for a number that is none of them.
 * Attached: not needed.   Threads: any.   Signals: async-signal-safe. */
PYHOLD_API const char *pyhold_status_name(pyhold_status status);

/* One sentence for people, without a full stop. As pyhold_status_name(). */
PYHOLD_API const char *pyhold_status_message(pyhold_status status);

/* ------------------------------------------------------------------------
 * Holds
 */

struct _is; /* CPython's PyInterpreterState */
struct _ts; /* CPython's PyThreadState */

/* A hold. It belongs to no thread: take it on one, give it back on another. */
typedef struct pyhold_interp pyhold_interp;

/* Take a hold on the interpreter that the calling thread is attached to.
 *
 * Attached:  required.
 * Params:    out  not NULL. Written on every return; NULL unless OK.
 * Returns:   OK, EDETACHED;
 *            EFINALIZING  the gate has closed, also when the caller is inside
 *                         an ensure that got in before;
 *            EMISUSE      this pyhold was compiled for another CPython: another
 *                         minor version, or only one of the two is a debug or
 *                         a free-threaded build. A line on stderr names both.
 *            ENOMEM       (only the first call for an interpreter; also when
 *                         it lets no gate be registered for another reason, as
 *                         at the limit of its recursion: ask again).
 * Owns:      the caller owns *out; pass it once to pyhold_interp_release().
 * Forgotten: the interpreter waits for this hold at its end, for ever.
 * Threads:   any.   Blocks: never; runs no byte code.
 * Spec:      PEP 788 (draft), PyInterpreterState_Hold.
 * Differs:   the draft makes failure fatal; here it is a status. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_interp_hold(pyhold_interp **out);

/* Take a hold on the interpreter numbered `id`.
 *
 * Attached:  not needed.
 * Params:    id   a value once given by PyInterpreterState_GetID().
 *            out  not NULL. Written on every return; NULL unless OK.
 * Returns:   OK;
 *            EFINALIZING  it was known, and is finalizing or finalized;
 *            ENOINTERP    pyhold never met it: nobody made a hold or a view.
 * Owns:      as pyhold_interp_hold().
 * Threads:   any.   Blocks: never on the GIL; never runs Python code.
 * Spec:      PEP 788 (draft), PyInterpreterState_Lookup.
 * Differs:   the draft returns NULL for every failure. CPython numbers its
 *            interpreters anew after Py_Initialize: an id then means the new
 *            interpreter as soon as that has a hold or a view. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_interp_lookup(int64_t id, pyhold_interp **out);

/* Another hold on the interpreter of `hold`, which stays yours. Cannot fail:
 * it succeeds after the gate has closed too, since `hold` keeps it waiting.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API PYHOLD_NODISCARD pyhold_interp *pyhold_interp_dup(
    pyhold_interp *hold);

/* Give back a hold.
 *
 * Attached:  not needed.
 * Aborts:    at a second release, unless another hold hides it.
 * Threads:   any.   Blocks: never.
 * Spec:      PEP 788 (draft), PyInterpreterState_Release. */
PYHOLD_API void pyhold_interp_release(pyhold_interp *hold);

/* The interpreter's number, as PyInterpreterState_GetID() gives it.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API int64_t pyhold_interp_id(const pyhold_interp *hold);

/* The interpreter itself: valid while `hold` exists.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API struct _is *pyhold_interp_state(const pyhold_interp *hold);

/* ------------------------------------------------------------------------
 * Views
 */

/* A view. Reference-counted; never keeps an interpreter alive. After
 * Py_FinalizeEx and a new Py_Initialize old views refuse; make new ones. */
typedef struct pyhold_view pyhold_view;

/* Make a view of the interpreter that the calling thread is attached to. The
 * first hold or view of an interpreter makes it known to pyhold, and registers
 * the gate with its atexit module. The gate closes after all callbacks, whenever
 * they were registered.
 *
 * Attached:  required. On 3.11 "attached" can be told from "detached while
 *            another thread is attached" only where no subinterpreter exists;
 *            elsewhere the caller vouches for it.
 * Params:    out  not NULL. Written on every return; NULL unless OK.
 * Returns:   OK, EDETACHED, EMISUSE, ENOMEM as pyhold_interp_hold();
 *            EFINALIZING  pyhold never met it, and its atexit callbacks have
 *            run already: too late for a gate.
 * Owns:      the caller owns *out; pass it once to pyhold_view_free().
 * Forgotten: some bytes are lost, nothing else.
 * Threads:   any.
 * Blocks:    never; it runs no byte code, so the GIL does not change hands: it may
 *            be the initializer of a function's static.
 * Spec:      PEP 788, PyInterpreterView_FromCurrent. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_view_current(pyhold_view **out);

/* Make a view of the main interpreter.
 *
 * Attached:  not needed, where the main interpreter is known: a hold or view of
 *            it was made before; or this code is part of a module that was
 *            imported, and the main thread has run Python code since. Else the
 *            caller must be attached to it.
 * Returns:   as pyhold_view_current(), without EDETACHED;
 *            ENOINTERP    it is not known, and the caller is not attached to it.
 * Owns, Forgotten, Threads, Blocks: as pyhold_view_current().
 * Spec:      PEP 788, PyInterpreterView_FromMain.
 * Differs:   FromMain needs no one to have come before. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_view_main(pyhold_view **out);

/* Make a view of the interpreter that this thread came from, for code that names
 * none, such as what runs inside a scope that let go of the GIL: the one that is
 * attached; else the one that the newest frame attached or let go of; else that of
 * the state which PyGILState_Ensure would attach; else a copy of `fallback`.
 *
 * Attached:  not needed. On 3.11 with subinterpreters, PyGILState_Ensure may mean
 *            another interpreter than the one that Py_BEGIN_ALLOW_THREADS let go
 *            of: so detach with a frame. Nor can it be told there where the dict of an
 *            ending subinterpreter (PyInterpreterState_GetDict) runs destructors.
 * Params:    fallback  NULL: ENOINTERP in place of the copy.
 *            out       not NULL. Written on every return; NULL unless OK.
 * Returns:   OK, ENOMEM, ENOINTERP. An interpreter that nobody made known is passed
 *            over, unless it is attached; then as pyhold_view_current();
 *            EFINALIZING  the thread is in what is left of an interpreter that has
 *                         ended. (The view of one that has ended may be OK, too: an
 *                         ensure through it is refused.)
 * Owns, Threads, Blocks: as pyhold_view_current(). */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_view_of_thread(pyhold_view *fallback, pyhold_view **out);

/* Another reference to the same view. Cannot fail.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API PYHOLD_NODISCARD pyhold_view *pyhold_view_dup(pyhold_view *view);

/* Give back a view, before or after the end of its interpreter.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API void pyhold_view_free(pyhold_view *view);

/* The number of the view's interpreter, dead or alive.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API int64_t pyhold_view_id(const pyhold_view *view);

/* What becomes of a thread state that an ensure through a view had to make.
 * Either way each outermost call starts fresh, as with PyGILState_Ensure: what
 * the call left in the state is cleared when it ends, attached, on its thread
 * (docs/native_threads.md has the list). Values that are to last from call to
 * call need a persistent thread state (below). */
typedef enum pyhold_keep {
  /* The default. For the main interpreter the thread keeps the state itself for
   * its next call, which is many times faster. The state is deleted after the
   * thread has exited, or with the interpreter. For a subinterpreter it is as
   * PYHOLD_PER_CALL, because CPython before 3.14.1 cannot end one that has
   * other thread states left. */
  PYHOLD_KEEP = 0,
  /* Deleted on release: between its calls the thread does not show in dumps and
   * in lists of thread states. Trace and profile functions end with it. */
  PYHOLD_PER_CALL = 1
} pyhold_keep;

/* Another view of the same interpreter, with a policy of its own. (A state
 * that the thread has already is used and left alone, whatever the policy.)
 *
 * Attached:  not needed.
 * Params:    out  not NULL. Written on every return; NULL unless OK.
 * Returns:   OK, ENOMEM; EMISUSE for NULL, or a policy that is none.
 * Owns:      as pyhold_view_current(); `view` stays the caller's.
 * Threads:   any.   Blocks: never. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_view_with(pyhold_view *view,
                                                           pyhold_keep keep,
                                                           pyhold_view **out);

/* Take a hold on the view's interpreter.
 *
 * Attached:  not needed.
 * Params:    out  not NULL. Written on every return; NULL unless OK.
 * Returns:   OK, EFINALIZING; EMISUSE for NULL.
 * Owns:      as pyhold_interp_hold().
 * Threads:   any.   Blocks: never.
 * Spec:      PEP 788, PyInterpreterGuard_FromView. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_view_hold(pyhold_view *view,
                                                           pyhold_interp **out);

/* ------------------------------------------------------------------------
 * Ensure and release
 */

/* Attach the calling thread to the interpreter of `hold`.
 *
 * If it is attached to it already, it stays so and this call nests. If it has
 * a detached thread state for it (PyGILState's, the threading module's,
 * or one that pyhold keeps), that is attached, and detached again on release.
 * Else a new one is made, and kept or deleted as pyhold_keep says; a hold means
 * PYHOLD_KEEP. A state of another interpreter that was attached is set aside
 * and attached again on release.
 *
 * Attached:  not needed. On 3.11 with subinterpreters the thread must not be
 *            attached to a state that pyhold has not seen: make a view first.
 * Returns:   OK, ENOMEM; EMISUSE for NULL. A refused call leaves the thread as
 *            it was.
 * Owns:      borrows `hold` for the call only; from then until the release the
 *            thread itself keeps the interpreter from finalizing.
 * Forgotten: the thread stays attached, the interpreter waits for ever; if the
 *            thread exits so, pyhold ends the process with a message.
 * Threads:   any.
 * Blocks:    until the GIL is free, unless it nests.
 * Signals:   not async-signal-safe.
 * Spec:      PEP 788 (draft), PyThreadState_Ensure.
 * Differs:   the draft takes over the hold. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_thread_ensure(pyhold_interp *hold);

/* The same for the interpreter of a view: the fast path, no hold is made.
 *
 * Returns:   OK, ENOMEM; EMISUSE for NULL;
 *            EFINALIZING  the gate has closed, and the thread is not inside
 *                         an ensure of that interpreter that got in before, nor
 *                         the one that finalizes it.
 * Owns:      borrows `view` for the call only.
 * Attached, Forgotten, Threads, Blocks, Signals: as pyhold_thread_ensure().
 * Spec:      PEP 788, PyThreadState_EnsureFromView. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_thread_ensure_view(pyhold_view *view);

/* Undo the newest ensure of the calling thread that is still in force: what
 * was attached before it is attached again.
 *
 * Attached:  required: to what the ensure attached.
 * Aborts:    when there is no ensure to undo.
 * Threads:   the one that ensured.
 * Blocks:    until the GIL is free, if another interpreter was set aside.
 *            Clearing what the calls left runs Python destructors, which may
 *            call pyhold again.
 * Forgotten: an exception that is pending when the outermost call ends is
 *            dropped, as by PyGILState_Release().
 * Fibers:    "newest" means of the thread. Fibers that ensure in turns need frames,
 *            unless all their ensures do the same: attach, or nest.
 * Spec:      PEP 788 (draft), PyThreadState_Release. */
PYHOLD_API void pyhold_thread_release(void);

/* The same, but an exception that is pending stays, in a kept state, for the
 * thread's next ensure: for code that ensures again to handle it, as Cython's
 * `with gil` does. */
PYHOLD_API void pyhold_thread_release_keeping_error(void);

/* With true: the newest ensure of the interpreter that this thread is attached to
 * no longer keeps it from finalizing (as a daemon thread does not). With false:
 * it does again. Where an older ensure of the same interpreter protects it, it
 * stays protected by that one.
 *
 * Attached:  required, through pyhold.
 * Returns:   OK;
 *            EFINALIZING  (false only) the gate has closed: still a daemon;
 *            EMISUSE      this thread is not inside an ensure of it, but those
 *                         of PEP 788's guards, which protect nothing; or in more
 *                         than 64.
 * Threads:   any.   Blocks: never.
 * Forgotten: a daemon that is still attached when the runtime finalizes is
 *            treated by CPython as it treats its own daemon threads: it hangs
 *            (3.13.8, 3.14), or is ended (before), when it next needs the GIL.
 *            One that is attached to a subinterpreter when that ends is fatal
 *            up to 3.14.0 ("not the last thread").
 * Spec:      PEP 788 (draft), PyThreadState_SetDaemon. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_thread_set_daemon(bool daemon);

/* ------------------------------------------------------------------------
 * Frames: ensure and release for guards
 */

/* What must be undone by one ensure, or one detach: a handle of one word. What it
 * stands for is in the thread's own memory, so that nothing of pyhold is on the
 * stack: greenlets, fibers and coroutines may switch inside a guard.
 *
 * Frames may be left in any order as long as that brings back what was attached:
 * those that nest in each other, of one interpreter, always. A frame that has
 * attached a thread state is left while that state is attached, one that has
 * detached the thread while it is detached; else the process is aborted.
 *
 * The frame that attached a thread detaches it when it is left, though others go on
 * (as with PyGILState). So fibers that switch while they are attached, on a thread
 * that was not, leave their frames newest first, or detach before they switch. */
typedef struct pyhold_frame pyhold_frame;

/* As pyhold_thread_ensure() and pyhold_thread_ensure_view(), undone by
 * pyhold_frame_leave(). `file` (a string that is never freed, such as __FILE__, or
 * NULL) and `line` say where, in the report of who holds an interpreter, and in the
 * message about a frame that is left where it must not be. *out is written on every
 * return, NULL unless OK. `view` must not be NULL: this is not checked. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_frame_enter(
    pyhold_frame **out, pyhold_interp *hold, const char *file, int line);
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_frame_enter_view(
    pyhold_frame **out, pyhold_view *view, const char *file, int line);

/* Two ways to detach. This is the one place that says when to use which.
 *
 *                      RELEASED, the default        HOLDING
 *   C++                ThreadStateDetachGuard g;    ThreadStateDetachGuard
 *                                                     g(pyhold::kHolding);
 *   replaces           Py_BEGIN_ALLOW_THREADS       the same, where the code after
 *                                                     it must run
 *   use it around      whatever may block: read(),  short work that must be
 *                      poll(), a queue, a join      finished
 *   meanwhile          the interpreter may          the interpreter waits for the
 *                      finalize                     thread
 *   detaching too      detaches                     EFINALIZING; the thread stays
 *     late                                          attached
 *   coming back too    the thread sleeps for good   cannot happen
 *     late
 *
 * Use RELEASED, unless something would be lost. With HOLDING a thread in a long system
 * call keeps the process from ending.
 *
 * Inside an ensure of the same interpreter the two are alike, because the ensure goes
 * on holding. So work that may block for long belongs outside of ensures, or needs a
 * word from pyhold_on_close(). Non-daemon threads of Python's own are joined before the
 * interpreter ends, so they are never late.
 *
 * A join is such work, too: the joined thread may end the process. PyErr_Print() does
 * that for a SystemExit: it finalizes on the calling thread, and waits there for all
 * other holders. A holder that joins this thread then waits for ever. Call
 * PyErr_WriteUnraisable() instead: it reports every exception, and never ends the
 * process. */
typedef enum pyhold_detach {
  /* Nothing is held. A thread that comes back too late is neither returned to code
   * that believes to be attached, nor ended by pthread_exit(), as CPython before
   * 3.13.8 does. */
  PYHOLD_DETACH_RELEASED = 0,
  /* The interpreter does not finalize until the thread is back. */
  PYHOLD_DETACH_HOLDING = 1
} pyhold_detach;

/* Detach the calling thread until pyhold_frame_leave() attaches it again. See
 * pyhold_detach for the choice of `way`.
 *
 * Attached:  required. On 3.11 with subinterpreters it must be to a state that
 *            is the thread's gilstate, or that pyhold has seen (a view was made
 *            in it); else EDETACHED.
 * Returns:   OK, EDETACHED, ENOMEM; EMISUSE as pyhold_interp_hold();
 *            EFINALIZING  nobody made the interpreter known before it was too
 *                         late; or, HOLDING only, the gate has closed, nothing
 *                         keeps the interpreter for this thread, and it is not the
 *                         thread that finalizes it. The thread stays attached.
 * Threads:   any.
 * Blocks:    leaving waits for the GIL; RELEASED and too late, for ever.
 * Spec:      CPython C API, Py_BEGIN_ALLOW_THREADS.
 * Differs:   that one hangs or ends the thread that comes back too late. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_frame_detach(
    pyhold_frame **out, pyhold_detach way, const char *file, int line);

/* Undo a frame that was entered with OK. As pyhold_thread_release(); but an
 * exception that is pending when the outermost use of a state that pyhold made
 * ends is reported to sys.unraisablehook before it is cleared.
 *
 * Params:    frame  not NULL: this is not checked.
 * Aborts:    on another thread than the one that entered; in a wrong order (see
 *            pyhold_frame). The message names the thread, the frame, and the newest
 *            other one of the thread, as far as they are known: of frames that
 *            nest, often the outermost one only. */
PYHOLD_API void pyhold_frame_leave(pyhold_frame *frame);

/* ------------------------------------------------------------------------
 * Persistent thread states
 */

/* A thread state that lasts until it is deleted, with all that calls leave in it
 * (threading.local and context values, a pending exception), for one thread and
 * one interpreter: CPython's "Reusing a thread state across repeated calls" with
 * somebody who owns it. Every ensure of that interpreter on that thread uses
 * it. For a subinterpreter it also makes calls cheap, and is a hold. */
typedef struct pyhold_thread_state pyhold_thread_state;

/* Make one for the calling thread, detached. If the thread has a state for the
 * interpreter already, that one is made to last.
 *
 * Attached:  not needed; nothing changes.
 * Params:    out  not NULL. Written on every return; NULL unless OK.
 * Returns:   OK, EFINALIZING, ENOMEM; EMISUSE for NULL.
 * Owns:      the caller owns *out; pass it once to
 *            pyhold_thread_state_delete(), on the same thread.
 * Forgotten: the main interpreter loses nothing but memory; a subinterpreter
 *            waits for ever at its end. See pyhold_on_close().
 * Threads:   any.   Blocks: never.
 * Spec:      CPython C API, PyThreadState_New. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_thread_state_new(pyhold_view *view, pyhold_thread_state **out);

/* Attach it, as an ensure does, and undo that.
 *
 * Attached:  attach: not needed. detach: required, to it.
 * Returns:   OK; EFINALIZING (the main interpreter's only); EMISUSE for NULL, on
 *            another thread, or while it is attached by this function already.
 * Aborts:    detach: as pyhold_frame_leave(), or without attach.
 * Threads:   the one that made it.
 * Blocks:    until the GIL is free, unless it nests. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_thread_state_attach(pyhold_thread_state *state);
PYHOLD_API void pyhold_thread_state_detach(pyhold_thread_state *state);

/* Delete it. While an ensure on this thread uses the state, the release of that
 * ensure deletes it. After the gate of the main interpreter has closed the state is
 * CPython's to delete.
 *
 * Attached:  not needed; nothing changes.
 * Threads:   the one that made it. On another it is leaked, with a line on stderr:
 *            the main interpreter loses memory, a subinterpreter waits for ever.
 * Blocks:    until the GIL is free; so whoever joins this thread should be
 *            detached. Runs Python destructors. */
PYHOLD_API void pyhold_thread_state_delete(pyhold_thread_state *state);

/* Have fn(arg) called once, before the view's interpreter ends: a word to owners
 * of persistent thread states, and of holds, to let go. It is called when the
 * interpreter's atexit callbacks run, in the place of the first view or hold among
 * them (last registered, first called): before older callbacks, which may join the
 * thread that is to be told. Then, or at the latest when the gate closes.
 *
 * Attached:  not needed. `fn` runs on the finalizing thread, detached; it may
 *            ensure nothing, and should only tell others.
 * Returns:   OK; ENOMEM; EMISUSE for NULL as `view` or `fn`;
 *            EFINALIZING  the gate has closed: fn is not called.
 * Threads:   any.   Blocks: never. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_on_close(pyhold_view *view,
                                                          void (*fn)(void *),
                                                          void *arg);

/* Take it back. When this returns, fn(arg) has ended or will never be called.
 *
 * Attached:  must not be, while fn waits for someone who needs the GIL.
 * Returns:   true if it was taken back before it was called.
 * Threads:   any, but not from `fn`.
 * Blocks:    while fn(arg) runs. */
PYHOLD_API bool pyhold_on_close_cancel(pyhold_view *view, void (*fn)(void *),
                                       void *arg);

/* ------------------------------------------------------------------------
 * What is to be done attached, later
 */

/* A piece of work, embedded in an object of the caller's. */
typedef struct pyhold_deferred {
  struct pyhold_deferred *next; /* pyhold's, from pyhold_defer() to run() */
  /* Called once. With true: attached to the interpreter, which does not finalize
   * meanwhile. With false: the interpreter ends or has ended; then free memory,
   * and leak what is Python's. The node is the callee's again. */
  void (*run)(struct pyhold_deferred *node, bool attached);
} pyhold_deferred;

/* Have node->run() called, once, attached to the view's interpreter: soon, by a
 * thread of pyhold's own, which is started when there is work and ends soon
 * after ("the service thread"); or by the gate, after the last holder has left.
 * Never by a guard, so that nobody's destructors run while a caller of pyhold has
 * a lock; but see pyhold_set_service_thread(). What is deferred to one
 * interpreter runs in the order in which it came, one at a time: what blocks
 * makes the others wait, and the interpreter's end, too (the gate's report names
 * the thread "pyhold").
 *
 * `run` may defer, ensure, fork and call Python. An exception that it leaves
 * pending goes to sys.unraisablehook.
 *
 * Attached:  not needed; attached, it is deferred all the same.
 * Params:    view  NULL: as one whose interpreter has ended.
 *            node  its `run` set; it stays where it is until then.
 * Owns:      borrows `view` for the call only.
 * Too late:  node->run(node, false) is called on this thread, at once, and
 *            counted: see pyhold_deferred_leaked().
 * Threads:   any, also one that exits.
 * Blocks:    never on the GIL; never allocates. It may start a thread. */
PYHOLD_API void pyhold_defer(pyhold_view *view, pyhold_deferred *node);

/* How many nodes and objects await the view's interpreter, the one that runs just
 * now included. Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API uint64_t pyhold_deferred_count(const pyhold_view *view);

/* Wait until there are none, for tests and for code that shuts down.
 *
 * Attached:  must not be, to this interpreter: EMISUSE.
 * Params:    timeout_ms  < 0: no limit.
 * Returns:   OK; EMISUSE, also for NULL; ETIMEDOUT.
 * Threads:   any, but the one that runs `run`.   Blocks: yes. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status
pyhold_deferred_wait(pyhold_view *view, int64_t timeout_ms);

/* How many nodes and objects of this process were too late: memory was freed, but
 * what is Python's was leaked, because their interpreter had ended.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API uint64_t pyhold_deferred_leaked(void);

/* Whether pyhold may start its service thread; it may, unless the core is
 * compiled with PYHOLD_NO_SERVICE_THREAD. Where it may not, or the system refuses
 * another thread, the next outermost ensure of the interpreter, on any thread,
 * does a part of the work before it returns: destructors then run in a guard's
 * constructor, so do not attach with a lock in hand that they may need. A thread
 * that runs already ends when its work is done.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API void pyhold_set_service_thread(bool allowed);

/* ------------------------------------------------------------------------
 * Python objects from anywhere
 */

struct _object; /* CPython's PyObject */

/* A reference to a Python object that may be given back on any thread, at any
 * time: attached or not, before or after its interpreter has ended. Counted
 * itself, so that copying needs no attached thread state either. */
typedef struct pyhold_object pyhold_object;

/* Make one.
 *
 * Attached:  required, to the view's interpreter.
 * Params:    object  a reference that the caller owns.
 *            out     not NULL. Written on every return; NULL unless OK.
 * Returns:   OK, ENOMEM; EMISUSE for NULL.
 * Owns:      takes over the reference, on failure too (it is given back then).
 *            The caller owns *out; pass it once to pyhold_object_free().
 * Forgotten: the object lives on.
 * Threads:   any.   Blocks: never. */
PYHOLD_API PYHOLD_NODISCARD pyhold_status pyhold_object_new(
    pyhold_view *view, struct _object *object, pyhold_object **out);

/* Another reference to the same. Cannot fail.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API PYHOLD_NODISCARD pyhold_object *pyhold_object_dup(
    pyhold_object *object);

/* Give back a reference; the last one gives back that to the Python object: at
 * once, if the thread is attached to its interpreter; else deferred, as by
 * pyhold_defer(). Once the interpreter has ended the object is leaked on purpose:
 * see pyhold_deferred_leaked().
 *
 * Attached:  not needed. Attached, it may run Python destructors.
 * Threads:   any, also one that exits.   Blocks: never on the GIL. */
PYHOLD_API void pyhold_object_free(pyhold_object *object);

/* The Python object, borrowed: to be used attached to its interpreter.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API struct _object *pyhold_object_get(const pyhold_object *object);

/* Its view, borrowed.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API pyhold_view *pyhold_object_view(const pyhold_object *object);

/* Whether the calling thread is attached to the view's interpreter, as far as
 * can be told: see pyhold_view_current() about 3.11.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API bool pyhold_view_is_attached(const pyhold_view *view);

/* Whether the gate of the view's interpreter has closed, for code that has another
 * way: a logger that then writes to stderr. With false the gate may close right
 * after, so an ensure is still to be tested. With true it stays closed; only a
 * thread that is inside an ensure from before, or that finalizes, still gets in.
 * (A child of os.fork() has an open gate again.)
 *
 * Attached:  not needed.
 * Params:    view  NULL: true.
 * Threads:   any.   Blocks: never. */
PYHOLD_API bool pyhold_view_is_closed(const pyhold_view *view);

/* ------------------------------------------------------------------------
 * Waiting at the gate
 */

/* The three structs here may grow at the end, without another ABI number: a program
 * may meet an older or a newer libpyhold. So each begins with its size, as whoever
 * fills it knows it. A field that came after the first version exists only if the size
 * says so. (pyhold_deferred, which is embedded in others, never grows.) */

/* One thread that keeps an interpreter from finalizing. */
typedef struct pyhold_holder {
  size_t size;       /* set by pyhold */
  int64_t thread_id; /* the kernel's, as threading.get_native_id() gives it */
  char thread_name[16];
  /* Since the outermost ensure; or, where the ensure was too quick to look at a
   * clock, since the gate closed: it is at least that. */
  int64_t held_ms;
  const char *file; /* where that was; NULL where it is not known */
  int line;
  bool is_finalizing_thread; /* it finalizes: not waited for */
} pyhold_holder;

typedef struct pyhold_wait_report {
  size_t size; /* set by pyhold */
  int64_t interp_id;
  int64_t waited_ms;
  bool giving_up; /* the limit is reached: finalization goes on */
  int64_t holds;  /* pyhold_interp / InterpreterRef, which have no thread */
  size_t holder_count;
  const pyhold_holder *const *holders; /* pointers: a holder may be larger */
} pyhold_wait_report;

/* How finalization waits for what holds an interpreter. All zero is the
 * default. */
typedef struct pyhold_wait_policy {
  /* sizeof(pyhold_wait_policy), so that pyhold reads no field that the caller's header
   * does not have. 0: the fields up to `arg`, those of the first version. */
  size_t size;
  /* Report after this time, then after twice, four times ... of it.
   * 0: the environment's PYHOLD_WARN_AFTER_MS, else 10,000. < 0: never. */
  int64_t warn_after_ms;
  /* Stop waiting after this time, with a last report. <= 0: never. A thread
   * that then is inside an ensure is treated as a daemon is: see
   * pyhold_thread_set_daemon(). One that comes back to it, from a frame that
   * had detached it or attached another interpreter, is stopped for ever.
   * (Ctrl-C ends the wait of the main thread for the main interpreter so, too;
   * other waits do not see it.) */
  int64_t give_up_after_ms;
  /* Gets the reports; NULL: they are printed to stderr. Runs on the thread
   * that waits, detached; must not call pyhold. The report ends with the
   * call. */
  void (*report)(const pyhold_wait_report *report, void *arg);
  void *arg;
} pyhold_wait_policy;

/* Set the policy of this process, also for waits in progress, whose first
 * report stays where it was due. The policy is copied. NULL sets the default.
 * Attached: not needed.   Threads: any.   Blocks: never. */
PYHOLD_API void pyhold_set_wait_policy(const pyhold_wait_policy *policy);

/* ------------------------------------------------------------------------
 * For the C++ layer
 */

/* What the C++ layers of all binaries that share this core have in common, under a
 * name that says its type: made by make() at the first call, never freed. If two
 * threads make it at once, one of the two is lost.
 * Attached: not needed.   Threads: any.   Aborts: without memory. */
PYHOLD_API void *pyhold_layer_state(const char *name, void *(*make)(void));

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* PYHOLD_CORE_H_ */
