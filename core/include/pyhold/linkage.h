/* linkage: which names of pyhold a binary shows, and what they are called there.
 *
 * docs/linking.md explains the two ways to link pyhold:
 *
 *   way              defined when compiling        what the binary shows
 *   embedded copy    nothing                       nothing of pyhold
 *   shared library   the library: PYHOLD_BUILDING_SHARED  the public C functions
 *                    its users:   PYHOLD_SHARED    nothing of pyhold
 *
 * In both ways a C function's name for the linker carries the ABI number:
 * pyhold_view_free() is pyhold_v1_view_free. So a header and a core of different
 * numbers don't link, and two libraries of different numbers share a process.
 * Sources and debuggers see the plain names. */
#ifndef PYHOLD_LINKAGE_H_
#define PYHOLD_LINKAGE_H_

/* The ABI number. It changes when a program that was compiled with the old
 * headers would not work with the new core. (Tests define another.) */
#ifndef PYHOLD_ABI_NUMBER
#define PYHOLD_ABI_NUMBER 1
#endif

#define PYHOLD_JOIN2_(a, b) a##b
#define PYHOLD_JOIN_(a, b) PYHOLD_JOIN2_(a, b)

#if defined(__GNUC__)
#if defined(PYHOLD_SHARED) || defined(PYHOLD_BUILDING_SHARED)
#define PYHOLD_API __attribute__((visibility("default")))
#else
#define PYHOLD_API __attribute__((visibility("hidden")))
#endif
#define PYHOLD_NODISCARD __attribute__((warn_unused_result))
/* For a class of yours that has members of pyhold's types. Those are hidden, so
 * GCC warns if the class is not. */
#define PYHOLD_HIDDEN __attribute__((visibility("hidden")))
/* The C++ layer's inline namespace, each time it is opened. Hidden in both ways:
 * the layer is compiled into each binary, and belongs to that binary. */
#define PYHOLD_ABI \
  PYHOLD_JOIN_(v, PYHOLD_ABI_NUMBER) __attribute__((visibility("hidden")))
#else
#define PYHOLD_API
#define PYHOLD_NODISCARD
#define PYHOLD_HIDDEN
#define PYHOLD_ABI PYHOLD_JOIN_(v, PYHOLD_ABI_NUMBER)
#endif

/* On a type. C has it on the functions alone. */
#if defined(__cplusplus)
#define PYHOLD_NODISCARD_TYPE [[nodiscard]]
#else
#define PYHOLD_NODISCARD_TYPE
#endif

/* All public functions, without "pyhold_". A function that is missing here keeps
 * its plain name, which tests/abi notices. */
#define PYHOLD_FUNCTION_MAP(M)      \
  M(defer)                          \
  M(deferred_count)                 \
  M(deferred_leaked)                \
  M(deferred_wait)                  \
  M(frame_detach)                   \
  M(frame_enter)                    \
  M(frame_enter_view)               \
  M(frame_leave)                    \
  M(interp_dup)                     \
  M(interp_hold)                    \
  M(interp_id)                      \
  M(interp_lookup)                  \
  M(interp_release)                 \
  M(interp_state)                   \
  M(layer_state)                    \
  M(object_dup)                     \
  M(object_free)                    \
  M(object_get)                     \
  M(object_new)                     \
  M(object_view)                    \
  M(on_close)                       \
  M(on_close_cancel)                \
  M(set_service_thread)             \
  M(set_wait_policy)                \
  M(status_message)                 \
  M(status_name)                    \
  M(thread_ensure)                  \
  M(thread_ensure_view)             \
  M(thread_release)                 \
  M(thread_release_keeping_error)   \
  M(thread_set_daemon)              \
  M(thread_state_attach)            \
  M(thread_state_delete)            \
  M(thread_state_detach)            \
  M(thread_state_new)               \
  M(view_current)                   \
  M(view_dup)                       \
  M(view_free)                      \
  M(view_hold)                      \
  M(view_id)                        \
  M(view_is_attached)               \
  M(view_is_closed)                 \
  M(view_main)                      \
  M(view_of_thread)                 \
  M(view_with)                      \
  M(PyInterpreterGuard_Close)       \
  M(PyInterpreterGuard_FromCurrent) \
  M(PyInterpreterGuard_FromView)    \
  M(PyInterpreterView_Close)        \
  M(PyInterpreterView_FromCurrent)  \
  M(PyInterpreterView_FromMain)     \
  M(PyThreadState_Ensure)           \
  M(PyThreadState_EnsureFromView)   \
  M(PyThreadState_Release)

/* A pragma, not #define: identifiers of the user's code stay as they are. */
#if defined(__GNUC__)
#define PYHOLD_PRAGMA_(text) _Pragma(#text)
#define PYHOLD_RENAME3_(name, number) \
  PYHOLD_PRAGMA_(redefine_extname pyhold_##name pyhold_v##number##_##name)
#define PYHOLD_RENAME2_(name, number) PYHOLD_RENAME3_(name, number)
#define PYHOLD_RENAME_(name) PYHOLD_RENAME2_(name, PYHOLD_ABI_NUMBER)
PYHOLD_FUNCTION_MAP(PYHOLD_RENAME_)
#endif

#endif /* PYHOLD_LINKAGE_H_ */
