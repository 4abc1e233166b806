#include "examples/cython/library.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <thread>
#include <utility>

namespace {

// Never destroyed: detached threads use it to the end of the process.
struct Threads {
  std::list<std::thread> joined;
  std::atomic<int> started{0}, refused{0}, failed{0};
  std::atomic<long> calls{0};
};

Threads& All() {
  static auto* all = new Threads;
  return *all;
}

void Run(library_callback callback, void* context) {
  for (int x = 1;; ++x) {
    int answer = 0;
    if (callback(context, x, &answer) != 0) {
      ++All().refused;
      return;
    }
    if (answer != x + 1) {
      ++All().failed;
      return;
    }
    ++All().calls;
  }
}

void JoinAll() {
  for (auto& thread : All().joined) thread.join();
  std::printf("%d threads, %d refused, %d failed, %s\n", All().started.load(),
              All().refused.load(), All().failed.load(),
              All().calls > 0 ? "some calls" : "no calls");
  std::fflush(stdout);
}

library_callback last_callback;
void* last_context;

void CallLast() {
  int answer = 0;
  const int status = last_callback(last_context, 1, &answer);
  std::printf("at exit: %d\n", status);
  std::fflush(stdout);
}

}  // namespace

void library_start(library_callback callback, void* context, int threads,
                   int detached) {
  for (int i = 0; i < threads; ++i) {
    ++All().started;
    std::thread thread(Run, callback, context);
    if (detached)
      thread.detach();
    else
      All().joined.push_back(std::move(thread));
  }
  if (detached) return;
  [[maybe_unused]] static const int registered = std::atexit(JoinAll);
}

void library_await_calls(long calls) {
  const long enough = All().calls + calls;
  while (All().calls < enough && All().refused + All().failed < All().started)
    std::this_thread::yield();
}

int library_call(library_callback callback, void* context, int times,
                 int* last_answer) {
  int status = 0;
  std::thread([&] {
    for (int x = 1; x <= times && status == 0; ++x)
      status = callback(context, x, last_answer);
  }).join();
  return status;
}

void library_call_at_exit(library_callback callback, void* context) {
  last_callback = callback;
  last_context = context;
  std::atexit(CallLast);
}
