// Clang's thread-safety analysis, with "attached" as the capability.
//
// A function that needs an attached thread state says so, and clang's
// -Wthread-safety warns where it is called without one:
//
//   PyObject* Decode(View bytes) PYHOLD_REQUIRES_ATTACHED;
//   void Drain(Pool& pool) PYHOLD_REQUIRES_DETACHED;  // joins threads
//
// The analysis looks at a lambda as at any function, without its caller. So a lambda
// for SafeCallIntoPython(), ObjectRef::WithObject(), Defer() or PyCallback that calls
// such functions says so, too:
//
//   pyhold::SafeCallIntoPython<S>(
//       view, [&]() PYHOLD_REQUIRES_ATTACHED { return Decode(bytes); });
//
// ThreadStateGuard gives the capability for its scope, ThreadStateDetachGuard
// takes it away. The analysis does not know statuses: test the guard too.
// Guards nest, so it needs a capability that may be taken twice: clang 21 or
// newer. For other compilers the macros are empty.
#ifndef PYHOLD_THREAD_ANNOTATIONS_H_
#define PYHOLD_THREAD_ANNOTATIONS_H_

#include "pyhold/linkage.h"

#if defined(__clang__) && defined(__has_attribute)
#if __has_attribute(reentrant_capability)
#define PYHOLD_TSA_(x) __attribute__((x))
#endif
#endif
#ifndef PYHOLD_TSA_
#define PYHOLD_TSA_(x)
#endif

namespace pyhold {
inline namespace PYHOLD_ABI {

struct PYHOLD_TSA_(capability("attached thread state"))
    PYHOLD_TSA_(reentrant_capability) AttachedCapability {};

// Exists for the analysis alone.
inline constexpr AttachedCapability attached{};

}  // namespace PYHOLD_ABI
}  // namespace pyhold

// On a function: the caller is attached / is not attached.
#define PYHOLD_REQUIRES_ATTACHED \
  PYHOLD_TSA_(requires_capability(::pyhold::attached))
#define PYHOLD_REQUIRES_DETACHED PYHOLD_TSA_(locks_excluded(::pyhold::attached))
// On a function: the caller is attached when it returns / no longer is.
#define PYHOLD_ATTACHES PYHOLD_TSA_(acquire_capability(::pyhold::attached))
#define PYHOLD_DETACHES PYHOLD_TSA_(release_capability(::pyhold::attached))
// In a function that cannot have an annotation: take it from here on that the
// thread is attached.
#define PYHOLD_ASSUME_ATTACHED() ::pyhold::AssumeAttached()

namespace pyhold {
inline namespace PYHOLD_ABI {
inline void AssumeAttached() PYHOLD_TSA_(assert_capability(attached)) {}
}  // namespace PYHOLD_ABI
}  // namespace pyhold

#endif  // PYHOLD_THREAD_ANNOTATIONS_H_
