// Two status types for SafeCallIntoPython and PyCallback, as a project that
// uses neither absl::Status nor arrow::Status may have them: one that is looked
// at, one that is thrown. What pyhold has to know of each is in StatusTraits
// and StatusOf, at the end of its part.
#ifndef PYHOLD_EXAMPLES_STATUS_TYPES_H_
#define PYHOLD_EXAMPLES_STATUS_TYPES_H_

#include <Python.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

#include "pyhold/python_error.h"
#include "pyhold/safe_call.h"

// --- 1. A value, or why there is none: in the manner of std::expected ---

struct PYHOLD_HIDDEN Failure {
  std::string message;
  pyhold_status refused = PYHOLD_OK;         // if Python was not called
  std::optional<pyhold::PythonError> error;  // if it raised
};

template <typename T>
class PYHOLD_HIDDEN Expected {
 public:
  Expected(T value) : state_(std::move(value)) {}
  Expected(Failure failure) : state_(std::move(failure)) {}
  Expected(Expected<void> status);  // a failure

  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() { return std::get<0>(state_); }
  const Failure& failure() const { return std::get<1>(state_); }

 private:
  std::variant<T, Failure> state_;
};

template <>
class PYHOLD_HIDDEN Expected<void> {
 public:
  Expected() = default;
  Expected(Failure failure) : failure_(std::move(failure)) {}

  explicit operator bool() const { return !failure_; }
  const Failure& failure() const { return *failure_; }

 private:
  std::optional<Failure> failure_;
};

template <typename T>
Expected<T>::Expected(Expected<void> status) : state_(status.failure()) {}

template <>
struct pyhold::StatusTraits<Expected<void>> {
  template <typename T>
  using Result = Expected<T>;

  static Expected<void> Ok() { return {}; }
  static Expected<void> FromRefusal(pyhold_status status) {
    return Failure{pyhold_status_name(status), status, std::nullopt};
  }
  static Expected<void> FromPythonError(PythonError error) {
    std::string message(error.message());
    return Failure{std::move(message), PYHOLD_OK, std::move(error)};
  }
  static const PythonError* Find(const Expected<void>& status) {
    return !status && status.failure().error ? &*status.failure().error
                                             : nullptr;
  }
};

template <typename T>
struct pyhold::StatusOf<Expected<T>> {
  using type = Expected<void>;
};

// --- 2. Exceptions ---

// Python was not called.
class PythonRefused : public std::runtime_error {
 public:
  explicit PythonRefused(pyhold_status status)
      : std::runtime_error(pyhold_status_name(status)), status_(status) {}
  pyhold_status status() const { return status_; }

 private:
  pyhold_status status_;
};

// Python raised. May be caught, kept and destroyed on any thread.
class PYHOLD_HIDDEN PythonRaised : public std::runtime_error {
 public:
  explicit PythonRaised(pyhold::PythonError error)
      : std::runtime_error(std::string(error.message())),
        error_(std::make_shared<pyhold::PythonError>(std::move(error))) {}
  const pyhold::PythonError& error() const { return *error_; }

 private:
  std::shared_ptr<const pyhold::PythonError> error_;
};

// The status where failures are thrown: there is only success.
struct Thrown {};

template <>
struct pyhold::StatusTraits<Thrown> {
  template <typename T>
  using Result = T;

  static Thrown Ok() { return {}; }
  [[noreturn]] static Thrown FromRefusal(pyhold_status status) {
    throw PythonRefused(status);
  }
  [[noreturn]] static Thrown FromPythonError(PythonError error) {
    throw PythonRaised(std::move(error));
  }
  static const PythonError* Find(Thrown) { return nullptr; }
};

template <>
struct pyhold::StatusOf<Thrown> {
  using type = Thrown;
};

#endif  // PYHOLD_EXAMPLES_STATUS_TYPES_H_
