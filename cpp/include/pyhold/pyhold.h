// All of pyhold for C++17. Start reading at thread_state_guard.h.
#ifndef PYHOLD_PYHOLD_H_
#define PYHOLD_PYHOLD_H_

#include "pyhold/detach_guard.h"
#include "pyhold/interpreter_ref.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/persistent_thread_state.h"
#include "pyhold/thread_annotations.h"
#include "pyhold/thread_state_guard.h"

#endif  // PYHOLD_PYHOLD_H_
