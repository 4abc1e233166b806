// A library that calls back on threads of its own, as the two modules in
// pybind11/ and nanobind/ wrap it. Of Python it knows that a callback may throw
// PythonRefused or PythonRaised.
#ifndef PYHOLD_EXAMPLES_CALLERS_H_
#define PYHOLD_EXAMPLES_CALLERS_H_

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "examples/status_types.h"

class Callers {
 public:
  // Never destroyed: its threads call on when the script has ended. They are
  // joined in exit(), after Python's end, and a line tells what became of them.
  static Callers& Get(const char* name) {
    static Callers* callers = [name] {
      auto* made = new Callers;
      made->name_ = name;
      at_exit_ = made;
      std::atexit([] { at_exit_->Join(); });
      return made;
    }();
    return *callers;
  }

  // `n` threads call callback(1), callback(2)... until it is refused.
  void Start(const std::function<int(int)>& callback, int n) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (int i = 0; i < n; ++i) {
      ++started_;
      threads_.emplace_back([this, callback] { Run(callback); });
    }
  }

  // Returns when `n` more calls were made, or when no thread is left to make
  // them.
  void AwaitCalls(long n) {
    const long enough = calls_ + n;
    while (calls_ < enough && refused_ + failed_ < started_)
      std::this_thread::yield();
  }

  // Calls `callback` once, in Join().
  void Keep(std::function<int(int)> callback) {
    std::lock_guard<std::mutex> lock(mutex_);
    kept_.swap(callback);
  }

 private:
  void Run(std::function<int(int)> callback) {
    try {
      for (int x = 1;; ++x) {
        auto copy = callback;
        if (copy(x) != x + 1) break;
        ++calls_;
      }
      ++failed_;
    } catch (const PythonRefused&) {
      ++refused_;
    } catch (const PythonRaised& e) {
      std::fprintf(stderr, "%s: %s\n", name_, e.what());
      ++failed_;
    }
  }

  void Join() {
    for (auto& thread : threads_) thread.join();
    std::printf("%s: %d threads, %d refused, %d failed, %s\n", name_,
                started_.load(), refused_.load(), failed_.load(),
                calls_ > 0 ? "some calls" : "no calls");
    if (kept_) {
      try {
        kept_(1);
      } catch (const PythonRefused& e) {
        std::printf("%s: kept: %s\n", name_, e.what());
      }
    }
    std::fflush(stdout);
  }

  static inline Callers* at_exit_;
  const char* name_;
  std::mutex mutex_;  // interpreters may call at the same time
  std::list<std::thread> threads_;
  std::atomic<int> started_{0}, refused_{0}, failed_{0};
  std::atomic<long> calls_{0};
  std::function<int(int)> kept_;
};

// What fn() returns, or throws, on a thread of its own.
template <typename F>
auto OnNewThread(F fn) {
  return std::async(std::launch::async, std::move(fn)).get();
}

#endif  // PYHOLD_EXAMPLES_CALLERS_H_
