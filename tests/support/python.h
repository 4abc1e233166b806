// Real interpreters for tests. Include this before other headers.
#ifndef PYHOLD_TESTS_PYTHON_H_
#define PYHOLD_TESTS_PYTHON_H_

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string>

// Starts the main interpreter: the one that the test was built for, found
// through the environment's PYTHON_BIN_PATH. The caller is attached then.
void StartPython(bool with_signal_handlers = false);

// A subinterpreter. Made and ended on the same thread, attached before.
class SubInterpreter {
 public:
  enum Gil { kShared, kOwn };  // own: 3.12+
  static constexpr bool kHasOwnGil = PY_VERSION_HEX >= 0x030C0000;

  // The caller is attached to it afterwards.
  explicit SubInterpreter(Gil gil);
  // Requires: nothing else uses it. The caller is attached to what it was
  // before, in the state it had.
  void End();

  PyThreadState* state() const { return state_; }
  PyThreadState* before() const { return before_; }
  PyInterpreterState* interp() const { return state_->interp; }

 private:
  PyThreadState* before_;
  PyThreadState* state_;
};

// What is attached to this thread; on 3.11, to any.
PyThreadState* Attached();

// How many thread states the interpreter has that is attached.
int CountStates();
// Waits, detached, until this thread's is the only one: soon, says the contract.
void AwaitOneState();

#ifdef Py_GIL_DISABLED
constexpr bool kHasGil = false;
#else
constexpr bool kHasGil = true;
#endif

// Whether a thread that a runtime left with a thread state may come back to the
// next one: CPython 3.15 leaves its gilstate dangling, which its debug build
// does not forgive.
#if PY_VERSION_HEX >= 0x030F0000 && defined(Py_DEBUG)
constexpr bool kKeptStateMayOutliveRuntime = false;
#else
constexpr bool kKeptStateMayOutliveRuntime = true;
#endif

// Runs Python code, which must not raise. The caller is attached.
void Exec(const char* code);
// Evaluates an expression to an int, or fails.
long Eval(const char* expression);

#endif  // PYHOLD_TESTS_PYTHON_H_
