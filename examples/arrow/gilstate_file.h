// A Python file for Arrow as it is mostly done, PyArrow's way: with
// PyGILState_Ensure. It is here to be compared with PyReadableFile. A thread
// that calls it while Python ends hangs, or is ended in the middle.
#ifndef PYHOLD_EXAMPLES_ARROW_GILSTATE_FILE_H_
#define PYHOLD_EXAMPLES_ARROW_GILSTATE_FILE_H_

#define PY_SSIZE_T_CLEAN
#include <Python.h>
//
#include <arrow/buffer.h>
#include <arrow/io/interfaces.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

class GilStateFile final : public arrow::io::RandomAccessFile {
 public:
  // Requires: attached.
  explicit GilStateFile(PyObject* file) : file_(Py_NewRef(file)) {}

  ~GilStateFile() override {
    if (!Py_IsInitialized()) return;
    Gil gil;
    Py_DECREF(file_);
  }

  arrow::Status Close() override {
    Gil gil;
    return Done(PyObject_CallMethod(file_, "close", nullptr));
  }
  bool closed() const override { return false; }
  arrow::Result<int64_t> Tell() const override {
    Gil gil;
    return ToInt(PyObject_CallMethod(file_, "tell", nullptr));
  }
  arrow::Status Seek(int64_t position) override {
    Gil gil;
    return Done(PyObject_CallMethod(file_, "seek", "L",
                                    static_cast<long long>(position)));
  }
  arrow::Result<int64_t> GetSize() override {
    Gil gil;
    ARROW_ASSIGN_OR_RAISE(int64_t before, Tell());
    ARROW_RETURN_NOT_OK(Done(PyObject_CallMethod(file_, "seek", "ii", 0, 2)));
    ARROW_ASSIGN_OR_RAISE(int64_t size, Tell());
    ARROW_RETURN_NOT_OK(Seek(before));
    return size;
  }
  arrow::Result<int64_t> Read(int64_t nbytes, void* out) override {
    Gil gil;
    PyObject* bytes =
        PyObject_CallMethod(file_, "read", "L", static_cast<long long>(nbytes));
    if (bytes == nullptr) return Done(nullptr);
    const int64_t size = PyBytes_GET_SIZE(bytes);
    std::memcpy(out, PyBytes_AS_STRING(bytes), static_cast<size_t>(size));
    Py_DECREF(bytes);
    return size;
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(int64_t nbytes) override {
    std::string data(static_cast<size_t>(nbytes), '\0');
    ARROW_ASSIGN_OR_RAISE(int64_t size, Read(nbytes, data.data()));
    data.resize(static_cast<size_t>(size));
    return arrow::Buffer::FromString(std::move(data));
  }

  using arrow::io::RandomAccessFile::ReadAt;
  arrow::Result<int64_t> ReadAt(int64_t position, int64_t nbytes,
                                void* out) override {
    std::lock_guard turn(mutex_);
    Gil gil;
    ARROW_RETURN_NOT_OK(Seek(position));
    return Read(nbytes, out);
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(
      int64_t position, int64_t nbytes) override {
    std::lock_guard turn(mutex_);
    Gil gil;
    ARROW_RETURN_NOT_OK(Seek(position));
    return Read(nbytes);
  }

 private:
  class Gil {
   public:
    Gil() : state_(PyGILState_Ensure()) {}
    ~Gil() { PyGILState_Release(state_); }
    Gil(const Gil&) = delete;
    Gil& operator=(const Gil&) = delete;

   private:
    const PyGILState_STATE state_;
  };

  // Takes over the result of a call.
  static arrow::Status Done(PyObject* result) {
    Py_XDECREF(result);
    if (result != nullptr) return arrow::Status::OK();
    PyErr_Print();
    return arrow::Status::IOError("Python raised an exception");
  }
  static arrow::Result<int64_t> ToInt(PyObject* result) {
    if (result == nullptr) return Done(nullptr);
    const int64_t value = PyLong_AsLongLong(result);
    Py_DECREF(result);
    return value;
  }

  PyObject* const file_;
  std::mutex mutex_;
};

#endif  // PYHOLD_EXAMPLES_ARROW_GILSTATE_FILE_H_
