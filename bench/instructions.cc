// What callgrind counts: each Measured_... function does one thing `argument`
// times and nothing else. See instructions.py.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "pyhold/pyhold.h"

namespace {

using pyhold::InterpreterView;
using pyhold::ThreadStateGuard;

struct Context {
  InterpreterView view, per_call;
  PyThreadState* state;
};

#define MEASURED(name, code)                                       \
  extern "C" __attribute__((noinline, used)) void Measured_##name( \
      [[maybe_unused]] Context& context, int times) {              \
    for (int i = 0; i < times; ++i) code;                          \
  }

MEASURED(bare, {
  PyEval_RestoreThread(context.state);
  PyEval_SaveThread();
})
MEASURED(gilstate, { PyGILState_Release(PyGILState_Ensure()); })
MEASURED(guard, { ThreadStateGuard guard(context.view); })
MEASURED(guard_per_call, { ThreadStateGuard guard(context.per_call); })
MEASURED(c_api, {
  if (pyhold_thread_ensure_view(context.view.raw()) == PYHOLD_OK)
    pyhold_thread_release();
})
MEASURED(hold, { pyhold::InterpreterRef ref = context.view.Hold(); })

// The thread has a state of its own, which is detached.
void WithOwnState(Context& context, void (*measured)(Context&, int), int n) {
  PyGILState_STATE old = PyGILState_Ensure();
  context.state = PyEval_SaveThread();
  {
    ThreadStateGuard once(context.view);
  }
  measured(context, n);
  PyEval_RestoreThread(context.state);
  PyGILState_Release(old);
}

void WithoutState(Context& context, void (*measured)(Context&, int), int n) {
  measured(context, n);
}

void WithKeptState(Context& context, void (*measured)(Context&, int), int n) {
  {
    ThreadStateGuard once(context.view);
  }
  measured(context, n);
}

void Nested(Context& context, void (*measured)(Context&, int), int n) {
  ThreadStateGuard guard(context.view);
  measured(context, n);
}

const struct {
  const char* name;
  void (*situation)(Context&, void (*)(Context&, int), int);
  void (*measured)(Context&, int);
} kCases[] = {
    {"bare", WithOwnState, Measured_bare},
    {"gilstate", WithOwnState, Measured_gilstate},
    {"gilstate_nested", Nested, Measured_gilstate},
    {"kept", WithKeptState, Measured_guard},
    {"kept_c_api", WithKeptState, Measured_c_api},
    {"detached", WithOwnState, Measured_guard},
    {"nested", Nested, Measured_guard},
    {"per_call", WithoutState, Measured_guard_per_call},
    {"hold", WithoutState, Measured_hold},
};

}  // namespace

int main(int argc, char** argv) {
  for (const auto& c : kCases) {
    if (argc != 3 || argv[1] != std::string(c.name)) continue;
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    if (const char* path = getenv("PYTHON_BIN_PATH"))
      PyConfig_SetBytesString(&config, &config.program_name, path);
    PyStatus status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) Py_ExitStatusException(status);
    Context context;
    context.view = InterpreterView::Current();
    context.per_call = context.view.With(PYHOLD_PER_CALL);
    PyThreadState* saved = PyEval_SaveThread();
    std::thread([&] {
      c.situation(context, c.measured, atoi(argv[2]));
    }).join();
    PyEval_RestoreThread(saved);
    return Py_FinalizeEx();
  }
  return 2;
}
