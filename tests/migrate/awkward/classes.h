// clang-format off
#ifndef CLASSES_H_
#define CLASSES_H_
#include <Python.h>

namespace spam {

class ScopedGil {
 public:
  ScopedGil() : state_(PyGILState_Ensure()) {}
  ~ScopedGil() { PyGILState_Release(state_); }
  ScopedGil(const ScopedGil&) = delete;

 private:
  PyGILState_STATE state_;
};

class Outside final : public Base<int> {
 public:
  explicit Outside(bool needed);
  ~Outside();

 private:
  bool needed_{true};
  PyGILState_STATE state_;
};

struct Default {
  PyGILState_STATE state = PyGILState_Ensure();
  ~Default() { PyGILState_Release(state); }
};

template <typename T>
class Typed {
 public:
  Typed() noexcept : count_{1}, state_{PyGILState_Ensure()} {}
  ~Typed() { PyGILState_Release(state_); }

 private:
  int count_;
  PyGILState_STATE state_;
};

SPAM_NAMESPACE_BEGIN(inner)
struct AfterAMacro {
  NOT_COPYABLE(AfterAMacro)
  AfterAMacro() : state(PyGILState_Ensure()) {}
  ~AfterAMacro() { PyGILState_Release(state); }
  PyGILState_STATE state;
};
SPAM_NAMESPACE_END(inner)

class EarlyEnd {
 public:
  EarlyEnd() { state_ = PyGILState_Ensure(); }
  void End() { PyGILState_Release(state_); }

 private:
  PyGILState_STATE state_;
};

}  // namespace spam
#endif  // CLASSES_H_
