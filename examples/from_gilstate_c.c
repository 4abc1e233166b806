/* Moving from PyGILState_Ensure, in C: see from_gilstate.cc.
 *
 *   PyGILState_STATE gil = PyGILState_Ensure();   if (ensure(...) != PYHOLD_OK)
 *                                                   ...say no...
 *   ...call Python...                             ...call Python...
 *   PyGILState_Release(gil);                      pyhold_thread_release();
 */
#include "examples/embed.h"

#include <pthread.h>

#include "pyhold/core.h"

struct job {
  pyhold_view *view; /* the interpreter that the job is for */
  pyhold_status status;
};

static void *callback(void *arg) {
  struct job *job = arg;
  job->status = pyhold_thread_ensure_view(job->view);
  if (job->status != PYHOLD_OK) return NULL; /* the thread is as it was */
  run_python("calls += 1");
  pyhold_thread_release();
  return NULL;
}

static void run_on_a_thread(struct job *job) {
  pthread_t thread;
  expect(pthread_create(&thread, NULL, callback, job) == 0, "a thread starts");
  pthread_join(thread, NULL);
}

int main(void) {
  start_python();
  run_python("calls = 0");
  struct job job;
  expect(pyhold_view_current(&job.view) == PYHOLD_OK, "a view is made");

  Py_BEGIN_ALLOW_THREADS;
  run_on_a_thread(&job);
  Py_END_ALLOW_THREADS;
  expect(job.status == PYHOLD_OK, "a call while Python lives");
  run_python("assert calls == 1");
  expect(Py_FinalizeEx() == 0, "Python ends without an error");

  run_on_a_thread(&job);
  expect(job.status == PYHOLD_EFINALIZING, "a call after the end is refused");
  pyhold_view_free(job.view); /* allowed after the end as well */
  printf("While Python lived the callback ran; afterwards: %s (%s).\n",
         pyhold_status_name(job.status), pyhold_status_message(job.status));
}
