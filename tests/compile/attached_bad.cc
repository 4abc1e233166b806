// Must not compile with -Wthread-safety -Werror. Each line with a mistake ends
// in `// bad`: see ../thread_safety_test.cc.
#include <Python.h>
//
#include "examples/status_types.h"
#include "pyhold/pyhold.h"
#include "pyhold/safe_call.h"

void CallsPython() PYHOLD_REQUIRES_ATTACHED;
void Blocks() PYHOLD_REQUIRES_DETACHED;

void NeverAttached() {
  CallsPython();  // bad
}

void NotAnyMore(const pyhold::InterpreterView& view) {
  {
    pyhold::ThreadStateGuard guard(view);
    CallsPython();
  }
  CallsPython();  // bad
}

void WhileDetached(const pyhold::InterpreterView& view) {
  pyhold::ThreadStateGuard guard(view);
  pyhold::ThreadStateDetachGuard detached;
  CallsPython();  // bad
}

void BlocksWithTheGil(const pyhold::InterpreterView& view) {
  pyhold::ThreadStateGuard guard(view);
  Blocks();  // bad
}

Expected<void> CallsFromALambdaThatDoesNotSaySo(
    const pyhold::InterpreterView& view) {
  return pyhold::SafeCallIntoPython<Expected<void>>(view, [] {
    CallsPython();  // bad
  });
}

Expected<void> BlocksInACall(const pyhold::InterpreterView& view) {
  return pyhold::SafeCallIntoPython<Expected<void>>(
      view, []() PYHOLD_REQUIRES_ATTACHED {
        Blocks();  // bad
      });
}
