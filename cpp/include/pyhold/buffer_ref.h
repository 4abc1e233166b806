#ifndef PYHOLD_BUFFER_REF_H_
#define PYHOLD_BUFFER_REF_H_

#include <Python.h>

#include <atomic>
#include <cstddef>
#include <new>
#include <utility>

#include "pyhold/core.h"
#include "pyhold/interpreter_view.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// Owns a Py_buffer, or none: memory that a Python object exports. May be copied,
// moved, read and destroyed on any thread at any time: attached or not, inside
// another interpreter, after its own has ended, in a static's destructor. The
// last copy calls PyBuffer_Release(): at once where the thread is attached to the
// buffer's interpreter; else deferred, as by pyhold_defer().
//
// The memory stays valid until the last copy ends, even if the interpreter ends
// first. In that case the last copy frees what pyhold allocated and leaks the
// buffer: pyhold_deferred_leaked() counts it.
//
// Thread-safe:       copying and destroying distinct objects, of one buffer too.
// Thread-compatible: one BufferRef used from two threads needs a lock. So does
//                    the memory, if somebody writes to it: the exporter keeps
//                    its size and place, not its contents.
//
//   // attached:
//   pyhold::BufferRef buffer = pyhold::BufferRef::FromObject(view, object);
//   if (!buffer) return nullptr;  // Python's error is set
//   pool.Submit([buffer] { Send(buffer.data(), buffer.size()); });
class [[nodiscard]] BufferRef final {
 public:
  // Calls PyObject_GetBuffer(object, ..., flags). `object` is borrowed.
  // Attached: required, to the view's interpreter.
  // Failure: empty, and a Python error is set, as PyObject_GetBuffer() sets it;
  // status() is EMISUSE if the object did not give a buffer, ENOMEM without
  // memory, or the view's own status if the view is empty.
  static BufferRef FromObject(const InterpreterView& view, PyObject* object,
                              int flags = PyBUF_SIMPLE) noexcept {
    BufferRef ref;
    if (!view) {
      ref.status_ = view.status();
      PyErr_SetString(PyExc_RuntimeError, pyhold_status_message(ref.status_));
      return ref;
    }
    auto* shared = new (std::nothrow) Shared(view);
    if (shared == nullptr) {
      ref.status_ = PYHOLD_ENOMEM;
      PyErr_NoMemory();
    } else if (PyObject_GetBuffer(object, &shared->buffer, flags) != 0) {
      delete shared;
      if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
        ref.status_ = PYHOLD_ENOMEM;
      }
    } else {
      ref.shared_ = shared;
      ref.status_ = PYHOLD_OK;
    }
    return ref;
  }

  BufferRef() = default;
  BufferRef(const BufferRef& other) noexcept
      : shared_(other.shared_), status_(other.status_) {
    // relaxed: the caller has a reference.
    if (shared_ != nullptr)
      shared_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  BufferRef(BufferRef&& other) noexcept
      : shared_(std::exchange(other.shared_, nullptr)),
        status_(std::exchange(other.status_, PYHOLD_EMISUSE)) {}
  BufferRef& operator=(BufferRef other) noexcept {
    std::swap(shared_, other.shared_);
    std::swap(status_, other.status_);
    return *this;
  }
  // Attached, it may run Python destructors. Never blocks on the GIL.
  ~BufferRef() {
    // acq_rel: the thread that releases the buffer comes after all other users.
    if (shared_ == nullptr ||
        shared_->refs.fetch_sub(1, std::memory_order_acq_rel) != 1)
      return;
    if (shared_->view.IsAttached()) {
      Shared::End(shared_, /*attached=*/true);
    } else {
      pyhold_defer(shared_->view.raw(), shared_);
    }
  }

  explicit operator bool() const noexcept { return shared_ != nullptr; }

  // Why it is empty; EMISUSE also if it was never given a buffer.
  pyhold_status status() const noexcept { return status_; }

  // The memory and its size in bytes; NULL and 0 if empty. With flags that allow
  // strides the bytes need not be contiguous: see get().
  // Attached: not needed, here and below.
  const void* data() const noexcept {
    return shared_ != nullptr ? shared_->buffer.buf : nullptr;
  }
  std::size_t size() const noexcept {
    return shared_ != nullptr ? static_cast<std::size_t>(shared_->buffer.len)
                              : 0;
  }

  // All that the exporter filled in, or NULL; `obj` is to be used attached. Stays
  // owned by this object and its copies: never release it.
  const Py_buffer* get() const noexcept {
    return shared_ != nullptr ? &shared_->buffer : nullptr;
  }

  // The view of its interpreter; empty if this is.
  InterpreterView view() const noexcept {
    return shared_ != nullptr ? shared_->view : InterpreterView();
  }

 private:
  // Py_buffer may point into itself (its shape to its len): so it never moves.
  struct Shared final : pyhold_deferred {
    explicit Shared(const InterpreterView& v) noexcept
        : pyhold_deferred{nullptr, &End}, view(v) {}

    static void End(pyhold_deferred* node, bool attached) noexcept {
      auto* shared = static_cast<Shared*>(node);
      if (attached) PyBuffer_Release(&shared->buffer);
      delete shared;
    }

    std::atomic<unsigned> refs{1};
    InterpreterView view;
    Py_buffer buffer{};
  };

  Shared* shared_ = nullptr;
  pyhold_status status_ = PYHOLD_EMISUSE;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_BUFFER_REF_H_
