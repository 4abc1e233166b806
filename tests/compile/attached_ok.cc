// Must compile without a warning: see ../thread_safety_test.cc.
#include "pyhold/pyhold.h"

void CallsPython() PYHOLD_REQUIRES_ATTACHED;
void Blocks() PYHOLD_REQUIRES_DETACHED;

void Outermost(const pyhold::InterpreterView& view) {
  pyhold::ThreadStateGuard guard(view);
  if (!guard) return;
  CallsPython();
  {
    pyhold::ThreadStateGuard nested(view);
    CallsPython();
  }
  CallsPython();
  {
    pyhold::ThreadStateDetachGuard detached;
    if (detached) Blocks();
  }
  CallsPython();
}

void PassesItOn() PYHOLD_REQUIRES_ATTACHED;
void PassesItOn() {
  CallsPython();
  pyhold::ThreadStateDetachGuard detached;
  Blocks();
}

void Vouches() {
  PYHOLD_ASSUME_ATTACHED();
  CallsPython();
}
