// Eight native threads ensure, call Python and release, in a loop with jitter,
// while the main thread finalizes at a random moment. 300 processes: none may
// hang, crash, let a call in after the gate, or keep a thread.
#include "tests/support/python.h"

#include <atomic>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;

constexpr int kThreads = 8;
constexpr int kRuns = 300;

std::atomic<bool> finalized{false};

void CallPython() {
  REQUIRE(!finalized);
  REQUIRE(Eval("sum([1, 2, 3])") == 6);
  REQUIRE(!finalized);
}

// One call, in one of the ways in which a library might make it. False: it was
// refused.
bool CallOnce(const InterpreterView& view, unsigned way) {
  switch (way % 5) {
    case 0: {
      ThreadStateGuard guard(view);
      if (!guard) return false;
      CallPython();
      return true;
    }
    case 1: {  // with a hold, which cannot be refused any more
      InterpreterRef ref = view.Hold();
      if (!ref) return false;
      ThreadStateGuard guard(std::move(ref));
      REQUIRE(guard);
      CallPython();
      return true;
    }
    case 2: {  // letting go in between
      ThreadStateGuard guard(view);
      if (!guard) return false;
      CallPython();
      {
        ThreadStateDetachGuard detached;
        REQUIRE(detached);
        ThreadStateGuard nested(view);
        REQUIRE(nested);
        CallPython();
      }
      CallPython();
      return true;
    }
    case 3: {  // through the C API, with the old functions inside
      if (pyhold_thread_ensure_view(view.raw()) != PYHOLD_OK) return false;
      PyGILState_STATE state = PyGILState_Ensure();
      CallPython();
      PyGILState_Release(state);
      pyhold_thread_release();
      return true;
    }
    default: {  // by number
      InterpreterRef ref = InterpreterRef::Lookup(0);
      if (!ref) return false;
      ThreadStateGuard guard(ref);
      REQUIRE(guard);
      CallPython();
      return true;
    }
  }
}

SCENARIO(Storm) {
  std::minstd_rand random(static_cast<unsigned>(argument) + 1);
  StartPython();
  InterpreterView view = InterpreterView::Current();
  REQUIRE(view);
  std::atomic<long> calls{0};
  std::atomic<int> refused{0};
  std::vector<std::thread> threads;
  const unsigned base = random();
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand jitter(base + t);
      while (CallOnce(view, jitter())) {
        ++calls;
        std::atomic<unsigned long> spin{jitter() % 2000};
        while (spin > 0) --spin;
      }
      ++refused;
      REQUIRE(!CallOnce(view, jitter()));  // refused is refused
    });
  }
  const long enough = static_cast<long>(random() % 200);
  PyThreadState* saved = PyEval_SaveThread();
  while (calls < enough) std::this_thread::yield();
  PyEval_RestoreThread(saved);
  REQUIRE(Py_FinalizeEx() == 0);
  finalized = true;
  for (auto& thread : threads) thread.join();
  REQUIRE(refused == kThreads);
  return 0;
}

TEST(StormTest, NothingHangsCrashesOrEntersLate) {
  std::atomic<int> next{0};
  auto work = [&] {
    for (int i; (i = next++) < kRuns;)
      EXPECT_EQ(RunChild("Storm", i), Clean()) << "run " << i;
  };
  std::thread other(work);
  work();
  other.join();
}

}  // namespace
