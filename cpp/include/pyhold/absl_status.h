#ifndef PYHOLD_ABSL_STATUS_H_
#define PYHOLD_ABSL_STATUS_H_

#include "pyhold/safe_call.h"
//
#include "pyhold/layer_state.h"
//
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace pyhold {
inline namespace PYHOLD_ABI {

// SafeCallIntoPython() with absl::Status and absl::StatusOr<T>. A refused call is
// kCancelled. An exception has the code of PythonError::CodeOf(), and travels in
// a payload, whose copies share it. The payload's text is the message; a status
// that was serialized has only that.
inline constexpr char kPythonErrorPayload[] = "pyhold/PythonError";

namespace internal {

// The payloads that live, by the address of their text, which no copy of the
// bytes has.
struct AbslPayloads {
  static constexpr char kName[] = "AbslPayloads, " PYHOLD_STANDARD_LIBRARY_;
  std::mutex mutex;
  std::unordered_map<const char*, const PythonError*> errors;
};
inline AbslPayloads& TheAbslPayloads() { return LayerState<AbslPayloads>(); }

}  // namespace internal

template <>
struct StatusTraits<absl::Status> {
  template <typename T>
  using Result = absl::StatusOr<T>;

  static absl::Status Ok() { return absl::OkStatus(); }

  static absl::Status FromRefusal(pyhold_status status) {
    return absl::CancelledError(DescribeRefusal(status));
  }

  static absl::Status FromPythonError(PythonError error) {
    absl::Status status(static_cast<absl::StatusCode>(error.code()),
                        error.message());
    auto* carried = new PythonError(std::move(error));
    const char* text = carried->message().data();
    {
      auto& payloads = internal::TheAbslPayloads();
      std::lock_guard lock(payloads.mutex);
      payloads.errors.emplace(text, carried);
    }
    status.SetPayload(
        kPythonErrorPayload,
        absl::MakeCordFromExternal(carried->message(), [carried, text] {
          {
            auto& payloads = internal::TheAbslPayloads();
            std::lock_guard lock(payloads.mutex);
            payloads.errors.erase(text);
          }
          delete carried;
        }));
    return status;
  }

  static const PythonError* Find(const absl::Status& status) {
    std::optional<absl::Cord> payload = status.GetPayload(kPythonErrorPayload);
    if (!payload.has_value()) return nullptr;
    std::optional<absl::string_view> text = payload->TryFlat();
    if (!text.has_value()) return nullptr;
    auto& payloads = internal::TheAbslPayloads();
    std::lock_guard lock(payloads.mutex);
    auto found = payloads.errors.find(text->data());
    return found != payloads.errors.end() ? found->second : nullptr;
  }
};

template <>
struct StatusOf<absl::Status> {
  using type = absl::Status;
};
template <typename T>
struct StatusOf<absl::StatusOr<T>> {
  using type = absl::Status;
};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_ABSL_STATUS_H_
