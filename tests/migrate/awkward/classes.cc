// clang-format off
#include "classes.h"

#include <memory>
#include <mutex>

namespace spam {

Outside::Outside(bool needed) : needed_(needed), state_(PyGILState_Ensure()) {}

Outside::~Outside() { PyGILState_Release(state_); }

int Use(PyObject* callback) {
  ScopedGil gil;
  auto lasts = std::make_unique<Outside>(true);
  Typed<int> typed;
  Default by_default{};
  PyObject_CallNoArgs(callback);
  return 0;
}

void BindingsUse(PyObject* callback) {
  py::gil_scoped_acquire gil;
  nb::gil_scoped_acquire again{};
  PyObject_CallNoArgs(callback);
}

}  // namespace spam
