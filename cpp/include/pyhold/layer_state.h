#ifndef PYHOLD_LAYER_STATE_H_
#define PYHOLD_LAYER_STATE_H_

#include <string>  // tells which standard library it is

#include "pyhold/core.h"

// Binaries that share a core may be compiled with different standard libraries:
// what they have in common then is none of its types.
#if defined(_LIBCPP_VERSION)
#define PYHOLD_STANDARD_LIBRARY_ "libc++"
#elif defined(_GLIBCXX_DEBUG)
#define PYHOLD_STANDARD_LIBRARY_ "libstdc++ debug"
#elif defined(_GLIBCXX_USE_CXX11_ABI) && !_GLIBCXX_USE_CXX11_ABI
#define PYHOLD_STANDARD_LIBRARY_ "libstdc++ old"
#else
#define PYHOLD_STANDARD_LIBRARY_ "libstdc++"
#endif

namespace pyhold {
inline namespace PYHOLD_ABI {
namespace internal {

// The one T of this copy of the core; never destroyed. A static would be one of
// each binary. T::kName names it and must be unique.
template <typename T>
T& LayerState() {
  static auto* state = static_cast<T*>(
      pyhold_layer_state(T::kName, []() -> void* { return new T; }));
  return *state;
}

}  // namespace internal
}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_LAYER_STATE_H_
