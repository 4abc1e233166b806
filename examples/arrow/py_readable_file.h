#ifndef PYHOLD_EXAMPLES_ARROW_PY_READABLE_FILE_H_
#define PYHOLD_EXAMPLES_ARROW_PY_READABLE_FILE_H_

#include "pyhold/arrow_status.h"
#include "pyhold/pyhold.h"
//
#include <arrow/io/interfaces.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "examples/arrow/py_bytes_buffer.h"

// A Python file object as a file of Arrow's, which Arrow's threads may read.
// What Python raises comes back as a status that pyhold::RestorePyError() can
// raise again. Once the interpreter ends, calls are Cancelled.
//
// Thread-safe. There is one position, the Python file's: ReadAt() moves it, too.
// Attached: only to construct it. Readers wait for their threads: so detach
// before calling them. The end of this does not close the Python file.
//
//   auto file = std::make_shared<PyReadableFile>(view, python_file);
//   pyhold::ThreadStateDetachGuard detached;
//   auto reader = parquet::arrow::OpenFile(file, pool);
class PYHOLD_HIDDEN PyReadableFile final : public arrow::io::RandomAccessFile {
 private:
  // Calls fn(file) attached, one thread at a time: so none moves the position
  // between the seek and the read of another.
  //
  // Lock order: mutex_, then the GIL. Whose turn it is may wait for the GIL, to
  // attach and whenever Python's read() let others run. So nobody may wait for
  // mutex_ with the GIL in hand: who comes attached lets go of it meanwhile. And
  // who waits for a turn is in no guard of ours yet: when the interpreter ends,
  // that thread is refused, not waited for.
  template <typename Fn>
  auto Call(Fn fn) const {
    auto call = [&] {
      return pyhold::SafeCallIntoPython<arrow::Status>(
          file_.view(), [&] { return fn(file_.get()); });
    };
    std::unique_lock turn(mutex_, std::try_to_lock);
    if (!turn) {
      pyhold::ThreadStateDetachGuard detached;
      if (!detached && detached.status() != PYHOLD_EDETACHED)
        return decltype(call())(
            pyhold::StatusTraits<arrow::Status>::FromRefusal(
                detached.status()));
      turn.lock();
    }
    return call();
  }

  // Called attached. Negative, false or null: Python raised.
  static int64_t TellIn(PyObject* file) {
    PyObject* position = PyObject_CallMethod(file, "tell", nullptr);
    const int64_t n = position != nullptr ? PyLong_AsLongLong(position) : -1;
    Py_XDECREF(position);
    return n;
  }
  static bool SeekIn(PyObject* file, int64_t position, int whence = SEEK_SET) {
    PyObject* result = PyObject_CallMethod(
        file, "seek", "Li", static_cast<long long>(position), whence);
    Py_XDECREF(result);
    return result != nullptr;
  }
  // A new bytes object, or one made of what read() gave.
  static PyObject* ReadIn(PyObject* file, int64_t nbytes) {
    PyObject* data =
        PyObject_CallMethod(file, "read", "L", static_cast<long long>(nbytes));
    if (data != nullptr && !PyBytes_CheckExact(data))
      Py_SETREF(data, PyBytes_FromObject(data));  // TypeError for a str
    if (data == nullptr || PyBytes_GET_SIZE(data) <= nbytes) return data;
    Py_DECREF(data);
    PyErr_SetString(PyExc_ValueError, "read() gave more than was asked for");
    return nullptr;
  }
  // These two take over the reference.
  static int64_t Copy(PyObject* bytes, void* out) {
    if (bytes == nullptr) return -1;
    const auto size = PyBytes_GET_SIZE(bytes);
    std::memcpy(out, PyBytes_AS_STRING(bytes), static_cast<size_t>(size));
    Py_DECREF(bytes);
    return size;
  }
  std::shared_ptr<arrow::Buffer> Wrap(PyObject* bytes) {
    auto ref = pyhold::ObjectRef::Steal(file_.view(), bytes);
    if (bytes != nullptr && !ref) PyErr_NoMemory();
    return ref ? std::make_shared<PyBytesBuffer>(std::move(ref)) : nullptr;
  }

  const pyhold::ObjectRef file_;
  mutable std::mutex mutex_;

 public:
  // Attached: required, to the view's interpreter. `file` stays the caller's.
  PyReadableFile(const pyhold::InterpreterView& view,
                 PyObject* file) PYHOLD_REQUIRES_ATTACHED
      : file_(pyhold::ObjectRef::Borrow(view, file)) {}

  arrow::Status Close() override {
    return Call([](PyObject* file) {
      Py_XDECREF(PyObject_CallMethod(file, "close", nullptr));
    });
  }
  // True, too, if the interpreter has ended.
  bool closed() const override {
    auto get = [this] {
      PyObject* value = PyObject_GetAttrString(file_.get(), "closed");
      const bool is = value != nullptr && PyObject_IsTrue(value) == 1;
      Py_XDECREF(value);
      return is;
    };
    return pyhold::SafeCallIntoPython<arrow::Status>(file_.view(), get)
        .ValueOr(true);
  }
  arrow::Result<int64_t> Tell() const override { return Call(TellIn); }
  arrow::Status Seek(int64_t position) override {
    return Call([=](PyObject* file) { SeekIn(file, position); });
  }
  arrow::Result<int64_t> GetSize() override {
    return Call([](PyObject* file) -> int64_t {
      const int64_t before = TellIn(file);
      if (before < 0 || !SeekIn(file, 0, SEEK_END)) return -1;
      const int64_t size = TellIn(file);
      return size >= 0 && SeekIn(file, before) ? size : -1;
    });
  }
  arrow::Result<int64_t> Read(int64_t n, void* out) override {
    return Call([=](PyObject* file) { return Copy(ReadIn(file, n), out); });
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(int64_t n) override {
    return Call([=, this](PyObject* file) { return Wrap(ReadIn(file, n)); });
  }
  using arrow::io::RandomAccessFile::ReadAt;
  arrow::Result<int64_t> ReadAt(int64_t at, int64_t n, void* out) override {
    return Call([=](PyObject* file) {
      return Copy(SeekIn(file, at) ? ReadIn(file, n) : nullptr, out);
    });
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(int64_t at,
                                                       int64_t n) override {
    return Call([=, this](PyObject* file) {
      return Wrap(SeekIn(file, at) ? ReadIn(file, n) : nullptr);
    });
  }
};

#endif  // PYHOLD_EXAMPLES_ARROW_PY_READABLE_FILE_H_
