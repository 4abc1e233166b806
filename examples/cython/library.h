/* A library with threads of its own and a C API, as module.pyx wraps it. It
 * knows nothing of Python. */
#ifndef PYHOLD_EXAMPLES_CYTHON_LIBRARY_H_
#define PYHOLD_EXAMPLES_CYTHON_LIBRARY_H_

#ifdef __cplusplus
extern "C" {
#endif

/* Writes *answer and returns 0, or says no. */
typedef int (*library_callback)(void *context, int x, int *answer);

/* `threads` threads call callback(context, 1), callback(context, 2)... until
 * that says no, or answers anything but x + 1. exit() joins those, and prints
 * what became of them; not so with `detached`. */
void library_start(library_callback callback, void *context, int threads,
                   int detached);

/* Returns when `calls` more were answered, or no thread is left to make them. */
void library_await_calls(long calls);

/* callback(context, 1) ... callback(context, times) on one new thread, up to
 * the first "no", which is returned. */
int library_call(library_callback callback, void *context, int times,
                 int *last_answer);

/* Has exit() call it once, on the thread that calls exit(). */
void library_call_at_exit(library_callback callback, void *context);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* PYHOLD_EXAMPLES_CYTHON_LIBRARY_H_ */
