#ifndef PYHOLD_OBJECT_REF_H_
#define PYHOLD_OBJECT_REF_H_

#include <Python.h>

#include <utility>

#include "pyhold/core.h"
#include "pyhold/interpreter_view.h"
#include "pyhold/thread_state_guard.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Owns a reference to a Python object, or none. May be copied, moved and
// destroyed on any thread at any time: attached or not, inside another
// interpreter, after its own has ended. If the thread is attached to the object's
// interpreter, the last copy gives the reference back at once, which may run Python
// destructors. Otherwise pyhold's service thread does it soon, and the last copy
// blocks nobody: see pyhold_object_free().
//
// An ObjectRef for the whole process belongs in a static pointer that is never
// deleted. A plain static object is destroyed when the process exits, while
// detached threads may still use it.
//
// Thread-safe:       copying and destroying distinct objects, of one object too.
// Thread-compatible: one ObjectRef used from two threads needs a lock.
//
//   // attached:
//   pyhold::ObjectRef callback = pyhold::ObjectRef::Borrow(view, function);
//   pool.Submit([callback] {
//     (void)callback.WithObject([](PyObject* function) {
//       Py_XDECREF(PyObject_CallNoArgs(function));
//     });
//   });
class [[nodiscard]] ObjectRef final {
 public:
  // Takes over a reference that the caller owns; NULL makes an empty one.
  // Attached: required, to the view's interpreter. No memory, or an empty view:
  // empty, and the reference is given back; ask status().
  static ObjectRef Steal(const InterpreterView& view,
                         PyObject* owned) noexcept {
    ObjectRef ref;
    if (owned == nullptr) return ref;
    if (!view) {
      ref.status_ = view.status();
      Py_DECREF(owned);
    } else {
      ref.status_ = pyhold_object_new(view.raw(), owned, &ref.raw_);
    }
    return ref;
  }

  // The same with a reference of its own: the caller's stays the caller's.
  static ObjectRef Borrow(const InterpreterView& view,
                          PyObject* borrowed) noexcept {
    Py_XINCREF(borrowed);
    return Steal(view, borrowed);
  }

  ObjectRef() = default;
  ObjectRef(const ObjectRef& other) noexcept
      : raw_(other.raw_ != nullptr ? pyhold_object_dup(other.raw_) : nullptr),
        status_(other.status_) {}
  ObjectRef(ObjectRef&& other) noexcept
      : raw_(std::exchange(other.raw_, nullptr)),
        status_(std::exchange(other.status_, PYHOLD_EMISUSE)) {}
  ObjectRef& operator=(ObjectRef other) noexcept {
    std::swap(raw_, other.raw_);
    std::swap(status_, other.status_);
    return *this;
  }
  ~ObjectRef() { pyhold_object_free(raw_); }

  explicit operator bool() const noexcept { return raw_ != nullptr; }

  // Why it is empty; EMISUSE if it was never given an object.
  pyhold_status status() const noexcept { return status_; }

  // The object, borrowed, or NULL: to be used attached to its interpreter.
  PyObject* get() const noexcept {
    return raw_ != nullptr ? pyhold_object_get(raw_) : nullptr;
  }

  // A reference for the caller, or NULL. Attached: required, as above.
  [[nodiscard]] PyObject* NewRef() const noexcept { return Py_XNewRef(get()); }

  // The view of its interpreter; empty if this is.
  InterpreterView view() const noexcept {
    if (raw_ == nullptr) return InterpreterView();
    return InterpreterView::FromRaw(pyhold_view_dup(pyhold_object_view(raw_)));
  }

  // Attaches the thread, as a ThreadStateGuard does, and calls fn(PyObject*).
  // Returns OK, if it was called; else why not: what an ensure returns, or
  // status().
  template <typename F>
  pyhold_status WithObject(F&& fn, const char* file = __builtin_FILE(),
                           int line = __builtin_LINE()) const {
    if (raw_ == nullptr) return status_;
    ThreadStateGuard guard(view(), file, line);
    if (guard) std::forward<F>(fn)(get());
    return guard.status();
  }

  // Whether they own the same object: identity, never Python's __eq__.
  friend bool operator==(const ObjectRef& a, const ObjectRef& b) noexcept {
    return a.get() == b.get();
  }
  friend bool operator!=(const ObjectRef& a, const ObjectRef& b) noexcept {
    return !(a == b);
  }

 private:
  pyhold_object* raw_ = nullptr;
  pyhold_status status_ = PYHOLD_EMISUSE;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_OBJECT_REF_H_
