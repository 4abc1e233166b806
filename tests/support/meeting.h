#ifndef PYHOLD_TESTS_MEETING_H_
#define PYHOLD_TESTS_MEETING_H_

#include <atomic>
#include <thread>

// Where a fixed number of threads wait for each other, again and again, and go
// on together within nanoseconds: it spins.
class Meeting {
 public:
  explicit Meeting(int threads) : threads_(threads) {}

  void Arrive() {
    int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round;
         ++spins) {
      if (spins > 2000) std::this_thread::yield();
    }
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

#endif  // PYHOLD_TESTS_MEETING_H_
