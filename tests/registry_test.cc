// The registry and the gate's protocol, over interpreters that are not Python:
// see support/fake_port.h. Under ThreadSanitizer too.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "pyhold/core.h"
#include "pyhold/pyhold.h"
#include "tests/support/fake_port.h"
#include "tests/support/meeting.h"

namespace {

using pyhold::InterpreterRef;
using pyhold::InterpreterView;

class RegistryTest : public testing::Test {
 protected:
  ~RegistryTest() override {
    pyhold_set_wait_policy(nullptr);
    fake_on_delete(nullptr, nullptr);
  }
};

TEST_F(RegistryTest, UnknownLivingAndEndedIdsAreToldApart) {
  _is* main = fake_interp_begin(true);
  _is* sub = fake_interp_begin(false);
  std::int64_t id = fake_interp_id(sub);
  EXPECT_EQ(InterpreterRef::Lookup(id).status(), PYHOLD_ENOINTERP);
  EXPECT_EQ(InterpreterRef::Lookup(-1).status(), PYHOLD_ENOINTERP);
  InterpreterView view = InterpreterView::Current();
  ASSERT_EQ(view.status(), PYHOLD_OK);
  {
    InterpreterRef ref = InterpreterRef::Lookup(id);
    ASSERT_TRUE(ref);
    EXPECT_EQ(ref.id(), id);
    EXPECT_EQ(ref.state(), sub);
  }
  fake_interp_end(sub);
  EXPECT_EQ(InterpreterRef::Lookup(id).status(), PYHOLD_EFINALIZING);
  EXPECT_EQ(view.Hold().status(), PYHOLD_EFINALIZING);
  EXPECT_EQ(view.id(), id);
  fake_interp_end(main);
}

TEST_F(RegistryTest, ReusedIdMeansTheNewInterpreter) {
  _is* first = fake_interp_begin(true);
  InterpreterView old_view = InterpreterView::Main();
  ASSERT_TRUE(old_view);
  fake_interp_end(first);
  EXPECT_EQ(InterpreterRef::Lookup(0).status(), PYHOLD_EFINALIZING);

  _is* second = fake_interp_begin(true);
  EXPECT_EQ(InterpreterRef::Lookup(0).status(), PYHOLD_EFINALIZING);
  InterpreterView view = InterpreterView::Main();
  ASSERT_TRUE(view);
  EXPECT_EQ(InterpreterRef::Lookup(0).state(), second);
  EXPECT_EQ(old_view.Hold().status(), PYHOLD_EFINALIZING);
  fake_interp_end(second);
}

TEST_F(RegistryTest, ManyEndedIdsAreRememberedInAnyOrder) {
  _is* main = fake_interp_begin(true);
  std::vector<std::int64_t> ids;
  // The id that nobody showed to pyhold stays unknown between known ones.
  std::int64_t skipped = -1;
  for (int i = 0; i < 40; ++i) {
    _is* outer = fake_interp_begin(false);
    if (i != 20) {
      EXPECT_TRUE(InterpreterView::Current());
    }
    _is* inner = fake_interp_begin(false);
    EXPECT_TRUE(InterpreterView::Current());
    (i == 20 ? skipped : ids.emplace_back()) = fake_interp_id(outer);
    ids.push_back(fake_interp_id(inner));
    fake_interp_end(inner);  // the higher one first
    fake_interp_end(outer);
  }
  for (std::int64_t id : ids)
    EXPECT_EQ(InterpreterRef::Lookup(id).status(), PYHOLD_EFINALIZING) << id;
  EXPECT_EQ(InterpreterRef::Lookup(skipped).status(), PYHOLD_ENOINTERP);
  EXPECT_EQ(InterpreterRef::Lookup(ids.back() + 1).status(), PYHOLD_ENOINTERP);
  fake_interp_end(main);
}

TEST_F(RegistryTest, WithoutAnAttachedStateNothingIsMade) {
  EXPECT_EQ(InterpreterRef::Current().status(), PYHOLD_EDETACHED);
  EXPECT_EQ(InterpreterView::Current().status(), PYHOLD_EDETACHED);
}

TEST_F(RegistryTest, MainViewNeedsSomeoneToHaveComeBefore) {
  _is* main = fake_interp_begin(true);
  std::thread([] {
    EXPECT_EQ(InterpreterView::Main().status(), PYHOLD_ENOINTERP);
  }).join();
  EXPECT_TRUE(InterpreterView::Main());  // attached to it
  std::thread([] { EXPECT_TRUE(InterpreterView::Main()); }).join();
  fake_interp_end(main);
}

TEST_F(RegistryTest, SubinterpreterMakesTheMainOneKnown) {
  _is* main = fake_interp_begin(true);
  _is* sub = fake_interp_begin(false);
  ASSERT_TRUE(InterpreterView::Current());
  EXPECT_EQ(InterpreterRef::Lookup(0).state(), main);
  fake_interp_end(sub);
  fake_interp_end(main);
}

TEST_F(RegistryTest, FailedRegistrationIsTriedAgain) {
  _is* main = fake_interp_begin(true);
  fake_set_no_memory(true);
  EXPECT_EQ(InterpreterView::Current().status(), PYHOLD_ENOMEM);
  fake_set_no_memory(false);
  fake_set_too_late(true);
  EXPECT_EQ(InterpreterView::Current().status(), PYHOLD_EFINALIZING);
  EXPECT_FALSE(InterpreterRef::Lookup(0));  // hidden until it has a gate
  fake_set_too_late(false);
  EXPECT_TRUE(InterpreterView::Current());
  fake_interp_end(main);
}

// A record that is in the list, but fails to become its interpreter's, is taken
// out of the list by the end of the main interpreter.
TEST_F(RegistryTest, RegistrationFailsWhileTheRuntimeEnds) {
  _is* main = fake_interp_begin(true);
  InterpreterView view = InterpreterView::Current();
  struct {
    std::promise<void> registers, ended;
  } meet;
  std::thread other([&] {
    fake_interp_begin(false);
    fake_before_cookie(
        [](void* arg) {
          auto* m = static_cast<decltype(meet)*>(arg);
          m->registers.set_value();
          m->ended.get_future().wait();
        },
        &meet);
    fake_set_no_memory(true);
    EXPECT_EQ(InterpreterView::Current().status(), PYHOLD_ENOMEM);
    fake_set_no_memory(false);
  });
  meet.registers.get_future().wait();
  fake_interp_end(main);
  meet.ended.set_value();
  other.join();
}

TEST_F(RegistryTest, ClosedIsClosedForAllButHolders) {
  _is* main = fake_interp_begin(true);
  InterpreterRef ref = InterpreterRef::Current();
  std::atomic<bool> closed{false};
  pyhold_wait_policy policy{};
  policy.warn_after_ms = 1;  // the first report comes after the close
  policy.report = [](const pyhold_wait_report*, void* arg) {
    *static_cast<std::atomic<bool>*>(arg) = true;
  };
  policy.arg = &closed;
  pyhold_set_wait_policy(&policy);
  std::thread other([&] {
    while (!closed) std::this_thread::yield();
    EXPECT_EQ(InterpreterRef::Lookup(0).status(), PYHOLD_EFINALIZING);
    InterpreterView view = InterpreterView::Main();
    EXPECT_TRUE(view);
    EXPECT_EQ(view.Hold().status(), PYHOLD_EFINALIZING);
    EXPECT_EQ(pyhold::ThreadStateGuard(view).status(), PYHOLD_EFINALIZING);
    EXPECT_EQ(fake_current(), nullptr);
    {
      pyhold::ThreadStateGuard guard{InterpreterRef(ref)};
      EXPECT_TRUE(guard);
      EXPECT_TRUE(pyhold::ThreadStateGuard(view));  // nested
      EXPECT_EQ(InterpreterRef::Current().status(), PYHOLD_EFINALIZING);
      pyhold::ThreadStateDetachGuard detached;
      EXPECT_TRUE(detached);
      EXPECT_TRUE(pyhold::ThreadStateGuard(view));  // comes back
    }
    ref = InterpreterRef();
  });
  fake_interp_end(main);
  other.join();
}

TEST_F(RegistryTest, MainsEndClosesAndWaitsForAll) {
  _is* main = fake_interp_begin(true);
  ASSERT_TRUE(InterpreterView::Current());
  _ts* main_state = fake_save();
  std::promise<InterpreterView> of_sub;
  std::promise<void> main_closed;
  std::atomic<bool> main_ended{false};
  std::thread other([&] {
    fake_thread_attach(main);
    _is* sub = fake_interp_begin(false);
    InterpreterView view = InterpreterView::Current();
    fake_save();
    {
      pyhold::ThreadStateGuard guard(view);
      ASSERT_TRUE(guard);
      of_sub.set_value(view);
      while (InterpreterRef::Lookup(0)) std::this_thread::yield();
      EXPECT_FALSE(main_ended);
      EXPECT_EQ(InterpreterRef::Lookup(fake_interp_id(sub)).status(),
                PYHOLD_EFINALIZING);
    }
  });
  InterpreterView view = of_sub.get_future().get();
  fake_restore(main_state);
  fake_interp_end(main);
  main_ended = true;
  other.join();
  EXPECT_EQ(view.Hold().status(), PYHOLD_EFINALIZING);
}

// --- The report ---

struct Report {
  std::int64_t interp_id = -1, holds = 0;
  bool giving_up = false;
  std::vector<std::string> files;
  std::vector<std::string> names;
};

void Collect(const pyhold_wait_report* r, void* arg) {
  Report copy;
  EXPECT_EQ(r->size, sizeof *r);
  copy.interp_id = r->interp_id;
  copy.holds = r->holds;
  copy.giving_up = r->giving_up;
  for (std::size_t i = 0; i < r->holder_count; ++i) {
    const pyhold_holder* holder = r->holders[i];
    EXPECT_EQ(holder->size, sizeof *holder);
    copy.files.push_back((holder->file != nullptr ? holder->file : "-") +
                         (":" + std::to_string(holder->line)));
    copy.names.push_back(holder->thread_name);
  }
  try {
    static_cast<std::promise<Report>*>(arg)->set_value(copy);
  } catch (const std::future_error&) {  // a later one, on a slow machine
  }
}

TEST_F(RegistryTest, ReportNamesThreadsPlacesAndHolds) {
  _is* main = fake_interp_begin(true);
  InterpreterView view = InterpreterView::Current();
  InterpreterRef ref = view.Hold();
  std::promise<Report> promise;
  pyhold_wait_policy policy{};
  policy.warn_after_ms = 20;
  policy.report = Collect;
  policy.arg = &promise;
  pyhold_set_wait_policy(&policy);
  std::promise<void> inside;
  std::thread holder([&] {
    pthread_setname_np(pthread_self(), "some-pool-3");
    pyhold::ThreadStateGuard guard(view, "pool.cc", 42);
    pyhold::ThreadStateGuard nested(view, "deeper.cc", 7);
    inside.set_value();
    Report report = promise.get_future().get();
    EXPECT_EQ(report.interp_id, 0);
    EXPECT_EQ(report.holds, 1);
    EXPECT_FALSE(report.giving_up);
    EXPECT_EQ(report.files, std::vector<std::string>{"pool.cc:42"});
    EXPECT_EQ(report.names, std::vector<std::string>{"some-pool-3"});
    ref = InterpreterRef();
  });
  inside.get_future().wait();
  fake_interp_end(main);
  holder.join();
}

TEST_F(RegistryTest, LimitEndsTheWaitAndLateReleasesAreHarmless) {
  _is* main = fake_interp_begin(true);
  InterpreterView view = InterpreterView::Current();
  std::promise<Report> promise;
  pyhold_wait_policy policy{};
  policy.warn_after_ms = -1;
  policy.give_up_after_ms = 20;
  policy.report = Collect;
  policy.arg = &promise;
  pyhold_set_wait_policy(&policy);
  InterpreterRef ref = view.Hold();
  fake_interp_end(main);
  Report report = promise.get_future().get();
  EXPECT_TRUE(report.giving_up);
  EXPECT_EQ(report.holds, 1);
  // The hold outlived its interpreter: it attaches to nothing.
  pyhold::ThreadStateGuard guard(InterpreterRef{ref});
  EXPECT_EQ(guard.status(), PYHOLD_EFINALIZING);
  EXPECT_EQ(ref.id(), 0);
}

// A program may have an older header than the library, or a newer one. What is past
// the size that it says is not its policy: AddressSanitizer sees that it is not read.
TEST_F(RegistryTest, PolicyOfAnotherSizeIsTakenAsFarAsItGoes) {
  constexpr std::size_t kOld = offsetof(pyhold_wait_policy, report);
  constexpr std::size_t kNew = sizeof(pyhold_wait_policy) + 16;
  for (std::size_t size : {kOld, sizeof(pyhold_wait_policy), kNew}) {
    std::promise<Report> promise;
    pyhold_wait_policy policy{};
    policy.size = size;
    policy.warn_after_ms = -1;
    policy.give_up_after_ms = 20;
    policy.report = Collect;
    policy.arg = &promise;
    std::vector<char> given(size, 'x');
    std::memcpy(given.data(), &policy, std::min(size, sizeof policy));
    pyhold_set_wait_policy(
        reinterpret_cast<const pyhold_wait_policy*>(given.data()));
    _is* main = fake_interp_begin(true);
    InterpreterRef ref = InterpreterRef::Current();
    fake_interp_end(main);  // does not hang: `give_up_after_ms` was taken
    bool reported = promise.get_future().wait_for(std::chrono::seconds(0)) ==
                    std::future_status::ready;
    EXPECT_EQ(reported, size != kOld) << size;
  }
}

TEST_F(RegistryTest, InterruptEndsTheWait) {
  _is* main = fake_interp_begin(true);
  InterpreterRef ref = InterpreterRef::Current();
  fake_interrupt();
  fake_interp_end(main);
  EXPECT_EQ(InterpreterRef::Lookup(0).status(), PYHOLD_EFINALIZING);
}

// --- Many threads ---

// Interpreters come and go while threads look them up, hold them and enter
// them. The fake port objects to an attach after the end.
TEST_F(RegistryTest, StormOfInterpretersAndThreads) {
  constexpr int kThreads = 4, kRounds = 60;
  _is* main = fake_interp_begin(true);
  ASSERT_TRUE(InterpreterView::Current());
  std::atomic<std::int64_t> newest{0};
  std::atomic<bool> stop{false};
  std::atomic<long> entered{0}, refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      while (!stop) {
        InterpreterRef ref = InterpreterRef::Lookup(newest);
        if (!ref) {
          ++refused;
          continue;
        }
        InterpreterRef copy = ref;
        if (t % 2 == 0) ref = InterpreterRef();
        pyhold::ThreadStateGuard guard(std::move(copy));
        EXPECT_TRUE(guard);
        ++entered;
      }
    });
  }
  for (int i = 0; i < kRounds; ++i) {
    _is* sub = fake_interp_begin(false);
    ASSERT_TRUE(InterpreterView::Current());
    long before = entered;
    newest = fake_interp_id(sub);
    while (entered < before + 20) std::this_thread::yield();
    fake_interp_end(sub);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  fake_interp_end(main);
}

// Two threads make the same interpreter known at once.
TEST_F(RegistryTest, FirstViewsRaceForOneRecord) {
  for (int round = 0; round < 300; ++round) {
    _is* main = fake_interp_begin(true);
    Meeting meeting(2);
    InterpreterView views[2];
    std::thread other([&] {
      fake_thread_attach(main);
      meeting.Arrive();
      views[1] = InterpreterView::Current();
      fake_thread_detach();
    });
    meeting.Arrive();
    views[0] = InterpreterView::Current();
    other.join();
    ASSERT_TRUE(views[0]);
    ASSERT_TRUE(views[1]);
    {
      InterpreterRef a = views[0].Hold(), b = views[1].Hold();
      EXPECT_EQ(std::move(a).IntoRaw(), std::move(b).IntoRaw());
    }
    pyhold_interp* raw;
    ASSERT_EQ(pyhold_interp_lookup(0, &raw), PYHOLD_OK);
    for (int i = 0; i < 3; ++i) pyhold_interp_release(raw);
    fake_interp_end(main);
    EXPECT_FALSE(views[0].Hold());
    EXPECT_FALSE(views[1].Hold());
  }
}

}  // namespace
