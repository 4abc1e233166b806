// The gate alone, without interpreters. Under ThreadSanitizer too.
#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/gate_for_test.h"
#include "tests/support/meeting.h"

namespace {

class GateTest : public testing::Test {
 protected:
  ~GateTest() override { test_gate_free(gate_); }
  test_gate* gate_ = test_gate_new(2);
};

TEST_F(GateTest, OpenLetsIn) {
  EXPECT_TRUE(test_gate_enter(gate_, 0));
  EXPECT_TRUE(test_gate_hold(gate_));
  EXPECT_EQ(test_gate_holds(gate_), 1);
}

TEST_F(GateTest, ClosedRefuses) {
  test_gate_close(gate_);
  EXPECT_FALSE(test_gate_enter(gate_, 0));
  EXPECT_FALSE(test_gate_hold(gate_));
  EXPECT_TRUE(test_gate_is_idle(gate_, 0));
}

TEST_F(GateTest, SlotKeepsItBusyUntilItLeaves) {
  ASSERT_TRUE(test_gate_enter(gate_, 1));
  test_gate_close(gate_);
  EXPECT_FALSE(test_gate_is_idle(gate_, 0));
  test_gate_leave(gate_, 1);
  EXPECT_TRUE(test_gate_is_idle(gate_, 0));
}

TEST_F(GateTest, SlotOfTheExceptedThreadDoesNotCount) {
  ASSERT_TRUE(test_gate_enter(gate_, 1));
  test_gate_close(gate_);
  EXPECT_TRUE(test_gate_is_idle(gate_, /*except=*/2));
  EXPECT_FALSE(test_gate_is_idle(gate_, /*except=*/1));
}

TEST_F(GateTest, HoldKeepsItBusyAndCanBeDuplicatedWhenClosed) {
  ASSERT_TRUE(test_gate_hold(gate_));
  test_gate_close(gate_);
  test_gate_dup(gate_);
  test_gate_drop(gate_);
  EXPECT_FALSE(test_gate_is_idle(gate_, 0));
  test_gate_drop(gate_);
  EXPECT_TRUE(test_gate_is_idle(gate_, 0));
}

TEST_F(GateTest, HoldTurnsIntoASlotWhenClosed) {
  ASSERT_TRUE(test_gate_hold(gate_));
  test_gate_close(gate_);
  test_gate_enter_pinned(gate_, 0);
  test_gate_drop(gate_);
  EXPECT_FALSE(test_gate_is_idle(gate_, 0));
  test_gate_leave(gate_, 0);
  EXPECT_TRUE(test_gate_is_idle(gate_, 0));
}

TEST_F(GateTest, ClosedGateIsJoinedWhileItWaitsForAHold) {
  ASSERT_TRUE(test_gate_join(gate_));  // open
  test_gate_close(gate_);
  ASSERT_TRUE(test_gate_join(gate_));
  EXPECT_EQ(test_gate_holds(gate_), 2);
  test_gate_drop(gate_);
  test_gate_drop(gate_);
  EXPECT_FALSE(test_gate_join(gate_));
  EXPECT_TRUE(test_gate_is_idle(gate_, 0));
}

TEST(GateSizeTest, SlotKeepsToItsTarget) { EXPECT_LE(test_slot_size(), 192u); }

using GateDeathTest = GateTest;
TEST_F(GateDeathTest, DroppingAHoldTwiceEndsTheProcess) {
  ASSERT_TRUE(test_gate_hold(gate_));
  test_gate_drop(gate_);
  EXPECT_DEATH(test_gate_drop(gate_), "released twice");
}

#if defined(__SANITIZE_THREAD__) || \
    (defined(__has_feature) && __has_feature(thread_sanitizer))
int Rounds(bool) { return 20000; }
#else
int Rounds(bool barrier) { return barrier ? 100000 : 400000; }
#endif

// Shifts one thread against the other, a little more each round, so that every
// overlap of their few instructions comes up.
void Shift(int round) {
  for (volatile int i = round % 97; i > 0; i = i - 1) {
  }
}

// With the closer's barrier, where the kernel has it, and without.
class GateStressTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!test_gate_use_barrier(GetParam()))
      GTEST_SKIP() << "no membarrier(2) here, or ThreadSanitizer";
  }
  void TearDown() override { (void)test_gate_use_barrier(true); }
};
INSTANTIATE_TEST_SUITE_P(, GateStressTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Barrier" : "SeqCst";
                         });

// P1. One thread enters while another closes: not both may win. Leave out the
// barrier, or weaken either store to release, and some round has both.
TEST_P(GateStressTest, EnterAndCloseNeverBothWin) {
  const int rounds = Rounds(GetParam());
  test_gate* gate = test_gate_new(1);
  Meeting meeting(2);
  bool entered = false, idle = false;
  int both = 0;
  std::thread other([&] {
    for (int i = 0; i < rounds; ++i) {
      meeting.Arrive();
      Shift(i);
      entered = test_gate_enter(gate, 0);
      meeting.Arrive();
    }
  });
  for (int i = 0; i < rounds; ++i) {
    test_gate_reset(gate);
    meeting.Arrive();
    Shift(i / 97);
    test_gate_close(gate);
    idle = test_gate_is_idle(gate, 0);
    meeting.Arrive();
    if (entered && idle) ++both;
  }
  other.join();
  EXPECT_EQ(both, 0);
  test_gate_free(gate);
}

// P2. The last holder leaves while the waiter goes to sleep: it must be woken.
// Leave out the barrier, or weaken ph_slot_set(), and some round sleeps on.
TEST_P(GateStressTest, LastHolderAlwaysWakesTheWaiter) {
  const int rounds = Rounds(GetParam());
  test_gate* gate = test_gate_new(1);
  Meeting meeting(2);
  int slept_on = 0;
  std::thread other([&] {
    for (int i = 0; i < rounds; ++i) {
      meeting.Arrive();
      Shift(i);
      test_gate_leave(gate, 0);
      meeting.Arrive();
    }
  });
  for (int i = 0; i < rounds; ++i) {
    test_gate_reset(gate);
    (void)test_gate_enter(gate, 0);
    meeting.Arrive();
    if (!test_gate_close_and_wait(gate, 3000)) ++slept_on;
    meeting.Arrive();
    if (slept_on > 0) break;
  }
  if (slept_on > 0) {
    ADD_FAILURE() << "a leaver did not wake the waiter";
    _exit(1);  // the other thread is in its loop for ever
  }
  other.join();
  test_gate_free(gate);
}

// INV2. A hold turns into a slot while the closer looks: read in the other
// order, slots first, some round sees neither.
TEST_P(GateStressTest, HoldThatTurnsIntoASlotIsAlwaysSeen) {
  const int rounds = Rounds(GetParam());
  test_gate* gate = test_gate_new(1);
  Meeting meeting(2);
  int missed = 0;
  std::thread other([&] {
    for (int i = 0; i < rounds; ++i) {
      meeting.Arrive();
      Shift(i);
      test_gate_enter_pinned(gate, 0);
      test_gate_drop(gate);
      meeting.Arrive();
    }
  });
  for (int i = 0; i < rounds; ++i) {
    test_gate_reset(gate);
    (void)test_gate_hold(gate);
    test_gate_close(gate);
    meeting.Arrive();
    for (int look = 0; look < 30; ++look)
      if (test_gate_is_idle(gate, 0)) ++missed;
    meeting.Arrive();
  }
  other.join();
  EXPECT_EQ(missed, 0);
  test_gate_free(gate);
}

// INV2. A thread joins a closed gate while its last hold is dropped: once the
// closer has seen it idle, nobody may be in.
TEST_P(GateStressTest, NobodyJoinsAGateThatWasSeenIdle) {
  const int rounds = Rounds(GetParam());
  test_gate* gate = test_gate_new(1);
  Meeting meeting(2);
  bool joined = false;
  int late = 0;
  std::thread other([&] {
    for (int i = 0; i < rounds; ++i) {
      meeting.Arrive();
      Shift(i);
      joined = test_gate_join(gate);
      if (joined) {
        test_gate_enter_pinned(gate, 0);
        test_gate_drop(gate);
      }
      meeting.Arrive();
    }
  });
  for (int i = 0; i < rounds; ++i) {
    test_gate_reset(gate);
    (void)test_gate_hold(gate);
    test_gate_close(gate);
    meeting.Arrive();
    Shift(i / 97);
    test_gate_drop(gate);
    bool idle = test_gate_is_idle(gate, 0);
    meeting.Arrive();
    if (joined && idle) ++late;
  }
  other.join();
  EXPECT_EQ(late, 0);
  test_gate_free(gate);
}

// P3. Holders write plain ints, which the closer reads without a lock: under
// ThreadSanitizer, weakening the release in slot_leave() or gate_drop(), or an
// acquire in gate_is_idle(), is a race. Nobody writes after the close is done.
TEST_P(GateStressTest, CloserSeesAllThatHoldersDid) {
  constexpr int kThreads = 4;
  for (int round = 0; round < 50; ++round) {
    test_gate* gate = test_gate_new(kThreads);
    std::vector<int> wrote(kThreads, 0);
    std::atomic<bool> over{false};
    std::atomic<int> late{0};
    std::atomic<int> going{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0;; ++i) {
          bool with_hold = i % 3 == 0;
          if (with_hold ? !test_gate_hold(gate) : !test_gate_enter(gate, t))
            break;
          if (i % 6 == 0) {  // the hold turns into the slot
            test_gate_enter_pinned(gate, t);
            test_gate_drop(gate);
            with_hold = false;
          }
          if (over.load(std::memory_order_relaxed)) ++late;
          ++wrote[t];
          if (with_hold)
            test_gate_drop(gate);
          else
            test_gate_leave(gate, t);
          if (i == 10) ++going;
        }
      });
    }
    while (going < kThreads) std::this_thread::yield();
    EXPECT_TRUE(test_gate_close_and_wait(gate, 3000));
    int total = 0;
    for (int w : wrote) total += w;
    over.store(true, std::memory_order_relaxed);
    for (auto& thread : threads) thread.join();
    EXPECT_GE(total, kThreads);
    EXPECT_EQ(late, 0);
    test_gate_free(gate);
  }
}

// INV3. Threads that are refused again and again do not hold up the closer.
TEST_P(GateStressTest, RefusedThreadsDoNotStarveTheCloser) {
  constexpr int kThreads = 8;
  for (int round = 0; round < 20; ++round) {
    test_gate* gate = test_gate_new(kThreads);
    std::atomic<bool> stop{false};
    std::atomic<int> busy{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        ++busy;
        while (!stop) {
          if (test_gate_enter(gate, t)) test_gate_leave(gate, t);
          if (test_gate_hold(gate)) test_gate_drop(gate);
        }
      });
    }
    while (busy < kThreads) std::this_thread::yield();
    EXPECT_TRUE(test_gate_close_and_wait(gate, 3000));
    int seen = 0;  // each may slip by once, between its look and its write
    for (int i = 0, idle = true; i < 1000; ++i) {
      int was_idle = idle;
      idle = test_gate_is_idle(gate, 0);
      if (was_idle && !idle) ++seen;
    }
    EXPECT_LE(seen, kThreads);
    stop = true;
    for (auto& thread : threads) thread.join();
    test_gate_free(gate);
  }
}

}  // namespace
