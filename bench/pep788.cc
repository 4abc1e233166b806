#define PYHOLD_PEP788_FORCE
#include "pyhold/pep788.h"

#include "bench/pep788.h"

namespace pep788 {

namespace {
PyInterpreterView* view;
PyInterpreterGuard* guard;
}  // namespace

void Open() {
  view = PyInterpreterView_FromCurrent();
  guard = PyInterpreterGuard_FromCurrent();
}
void* EnsureFromView() { return PyThreadState_EnsureFromView(view); }
void* Ensure() { return PyThreadState_Ensure(guard); }
void Release(void* token) { PyThreadState_Release(token); }
void Close() {
  PyInterpreterGuard_Close(guard);
  PyInterpreterView_Close(view);
}

}  // namespace pep788
