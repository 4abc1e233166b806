/* The names of PEP 788's first draft (April 2025), for code as it was written
 * there. Include it after all others: PyInterpreterState means a hold then. */
#ifndef PYHOLD_TESTS_PEP788_DRAFT_H_
#define PYHOLD_TESTS_PEP788_DRAFT_H_

#include <Python.h>

#include "pyhold/core.h"

static inline pyhold_interp *draft_hold(void) {
  pyhold_interp *interp;
  if (pyhold_interp_hold(&interp) != PYHOLD_OK)
    Py_FatalError("PyInterpreterState_Hold(): too late"); /* as in the draft */
  return interp;
}

static inline pyhold_interp *draft_lookup(int64_t id) {
  pyhold_interp *interp;
  return pyhold_interp_lookup(id, &interp) == PYHOLD_OK ? interp : NULL;
}

static inline int draft_result(pyhold_status status) {
  return status == PYHOLD_OK ? 0 : -1;
}

/* The draft's takes over the hold. */
static inline int draft_ensure(pyhold_interp *interp) {
  pyhold_status status = pyhold_thread_ensure(interp);
  pyhold_interp_release(interp);
  return draft_result(status);
}

#define PyInterpreterState pyhold_interp
#define PyInterpreterState_Hold() draft_hold()
#define PyInterpreterState_Lookup(id) draft_lookup(id)
#define PyInterpreterState_Release(interp) pyhold_interp_release(interp)
#define PyThreadState_Ensure(interp) draft_ensure(interp)
#define PyThreadState_Release() pyhold_thread_release()
#define PyThreadState_SetDaemon(is_daemon) \
  draft_result(pyhold_thread_set_daemon(is_daemon))

#endif /* PYHOLD_TESTS_PEP788_DRAFT_H_ */
