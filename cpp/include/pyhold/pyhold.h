// The guards: all of pyhold that needs no Python.h. Start reading at
// thread_state_guard.h. What needs it, and so comes before other headers, is
// included by itself: error_state.h, object_ref.h, buffer_ref.h, python_error.h,
// safe_call.h, py_callback.h, absl_status.h, arrow_status.h.
#ifndef PYHOLD_PYHOLD_H_
#define PYHOLD_PYHOLD_H_

#include "pyhold/defer.h"
#include "pyhold/detach_guard.h"
#include "pyhold/interpreter_ref.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/on_close.h"
#include "pyhold/persistent_thread_state.h"
#include "pyhold/thread_annotations.h"
#include "pyhold/thread_state_guard.h"

#endif  // PYHOLD_PYHOLD_H_
