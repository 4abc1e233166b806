#ifndef PYHOLD_ARROW_STATUS_H_
#define PYHOLD_ARROW_STATUS_H_

#include "pyhold/safe_call.h"
//
#include "pyhold/layer_state.h"
//
#include <arrow/result.h>
#include <arrow/status.h>

#include <memory>
#include <string>
#include <utility>

namespace pyhold {
inline namespace PYHOLD_ABI {

// Carries an exception in an arrow::Status.
class PythonErrorDetail final : public arrow::StatusDetail {
 public:
  explicit PythonErrorDetail(PythonError error) : error_(std::move(error)) {}

  // Its address tells it from those of other copies of pyhold, and from details
  // that were made with another standard library.
  static const char* TypeId() { return internal::LayerState<Id>().text; }
  const char* type_id() const override { return TypeId(); }
  std::string ToString() const override {
    return "Python exception: " + error_.message();
  }

  const PythonError& error() const { return error_; }

 private:
  struct Id {
    static constexpr char kName[] =
        "PythonErrorDetail, " PYHOLD_STANDARD_LIBRARY_;
    char text[32] = "pyhold::PythonErrorDetail";
  };

  PythonError error_;
};

// SafeCallIntoPython() with arrow::Status and arrow::Result<T>. A refused call is
// Cancelled. An exception has the code below, and travels as the status's
// detail.
template <>
struct StatusTraits<arrow::Status> {
  template <typename T>
  using Result = arrow::Result<T>;

  static arrow::Status Ok() { return arrow::Status::OK(); }

  static arrow::Status FromRefusal(pyhold_status status) {
    return arrow::Status::Cancelled(DescribeRefusal(status));
  }

  static arrow::Status FromPythonError(PythonError error) {
    arrow::StatusCode code = CodeOf(error);
    std::string message = error.message();
    return arrow::Status(code, std::move(message),
                         std::make_shared<PythonErrorDetail>(std::move(error)));
  }

  static const PythonError* Find(const arrow::Status& status) {
    const auto& detail = status.detail();
    if (detail == nullptr || detail->type_id() != PythonErrorDetail::TypeId())
      return nullptr;
    return &static_cast<const PythonErrorDetail*>(detail.get())->error();
  }

 private:
  static arrow::StatusCode CodeOf(const PythonError& error) {
    PyObject* exception = error.exception().get();
    if (exception != nullptr) {
      if (PyErr_GivenExceptionMatches(exception, PyExc_OSError))
        return arrow::StatusCode::IOError;
      if (PyErr_GivenExceptionMatches(exception, PyExc_TypeError))
        return arrow::StatusCode::TypeError;
    }
    switch (error.code()) {
      case ErrorCode::kCancelled:
        return arrow::StatusCode::Cancelled;
      case ErrorCode::kInvalidArgument:
        return arrow::StatusCode::Invalid;
      case ErrorCode::kNotFound:
        return arrow::StatusCode::KeyError;
      case ErrorCode::kAlreadyExists:
        return arrow::StatusCode::AlreadyExists;
      case ErrorCode::kResourceExhausted:
        return arrow::StatusCode::OutOfMemory;
      case ErrorCode::kOutOfRange:
        return arrow::StatusCode::IndexError;
      case ErrorCode::kUnimplemented:
        return arrow::StatusCode::NotImplemented;
      default:
        return arrow::StatusCode::UnknownError;
    }
  }
};

template <>
struct StatusOf<arrow::Status> {
  using type = arrow::Status;
};
template <typename T>
struct StatusOf<arrow::Result<T>> {
  using type = arrow::Status;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_ARROW_STATUS_H_
