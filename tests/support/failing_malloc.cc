#include "tests/support/failing_malloc.h"

#include <cerrno>
#include <cstddef>

// The C library's own, under the names that it gives to those who replace it.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
}

namespace {

thread_local int left, failures;

bool Fails() {
  if (left <= 0 || --left > 0) return false;
  ++failures;
  errno = ENOMEM;
  return true;
}

}  // namespace

bool FailAllocation(int nth) {
  bool failed = failures > 0;
  left = nth > 0 ? nth : 0;
  if (nth >= 0) failures = 0;
  return failed;
}

extern "C" {
void* malloc(std::size_t size) {
  return Fails() ? nullptr : __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  // Where this one fails, of __cxa_thread_atexit_impl(), glibc ends the process:
  // as in every program whose thread_local variables have destructors.
  constexpr std::size_t kOfGlibc = 4 * sizeof(void*);
  if (count == 1 && size == kOfGlibc) return __libc_calloc(count, size);
  return Fails() ? nullptr : __libc_calloc(count, size);
}
void* realloc(void* p, std::size_t size) {
  return Fails() ? nullptr : __libc_realloc(p, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  return Fails() ? nullptr : __libc_memalign(alignment, size);
}
}
