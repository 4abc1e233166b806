// What the casters in pybind11/ and nanobind/ ask of a function's return type.
#ifndef PYHOLD_EXAMPLES_RESULT_VALUE_H_
#define PYHOLD_EXAMPLES_RESULT_VALUE_H_

#include <type_traits>

#include "examples/status_types.h"
#include "pyhold/safe_call.h"

// The status type that R belongs to; Thrown, if it is no status.
template <typename R>
using StatusOrThrown =
    std::conditional_t<std::is_void_v<typename pyhold::StatusOf<R>::type>,
                       Thrown, typename pyhold::StatusOf<R>::type>;

template <typename R, bool kIsResult>
struct ResultValueOf {
  using type = R;
};
template <template <typename...> class Result, typename T, typename... More>
struct ResultValueOf<Result<T, More...>, true> {
  using type = T;
};

// The value that comes with R: T for a result of T, void for a status without
// one, R itself if it is neither.
template <typename R>
using ResultValue = std::conditional_t<
    std::is_same_v<R, StatusOrThrown<R>>, void,
    typename ResultValueOf<
        R, !std::is_void_v<typename pyhold::StatusOf<R>::type>>::type>;

#endif  // PYHOLD_EXAMPLES_RESULT_VALUE_H_
