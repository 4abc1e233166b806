// Ensure and release over the fake port, where every failure can be had. Under
// ThreadSanitizer too. What needs Python is in ensure_test.cc.
#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"
#include "pyhold/pyhold.h"
#include "tests/support/fake_port.h"

namespace {

using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;

static_assert(!std::is_copy_constructible_v<ThreadStateGuard>);
static_assert(!std::is_move_constructible_v<ThreadStateGuard>);
static_assert(!std::is_move_constructible_v<ThreadStateDetachGuard>);
static_assert(std::is_nothrow_move_constructible_v<InterpreterRef>);
static_assert(std::is_nothrow_copy_constructible_v<InterpreterView>);
static_assert(!std::is_convertible_v<InterpreterRef, bool>);

bool HasServiceThread() {
  bool found = false;
  DIR* tasks = opendir("/proc/self/task");
  while (const dirent* entry = readdir(tasks)) {
    std::string name;
    std::ifstream comm(std::string("/proc/self/task/") + entry->d_name +
                       "/comm");
    std::getline(comm, name);
    found = found || name == "pyhold";
  }
  closedir(tasks);
  return found;
}

class ThreadTest : public testing::Test {
 protected:
  void SetUp() override {
    main_ = fake_interp_begin(true);
    view_ = InterpreterView::Current();
    ASSERT_EQ(view_.status(), PYHOLD_OK);
  }
  void TearDown() override {
    fake_on_delete(nullptr, nullptr);
    fake_interp_end(main_);
  }

  _is* main_;
  InterpreterView view_;
};

TEST_F(ThreadTest, StateIsMadeOnceAndDeletedOnce) {
  InterpreterView per_call = view_.With(PYHOLD_PER_CALL);
  std::thread([&] {
    {
      ThreadStateGuard outer(per_call);
      _ts* state = fake_current();
      EXPECT_EQ(fake_state_count(main_), 2);
      ThreadStateGuard inner(view_);
      EXPECT_EQ(fake_current(), state);
      EXPECT_EQ(fake_state_count(main_), 2);
    }
    EXPECT_EQ(fake_current(), nullptr);
    EXPECT_EQ(fake_state_count(main_), 1);
  }).join();
}

TEST_F(ThreadTest, NoMemoryForAStateLeavesTheThreadAsItWas) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  _ts* sub_state = fake_save();
  std::thread([&] {
    fake_set_no_memory(true);
    EXPECT_EQ(ThreadStateGuard(view_).status(), PYHOLD_ENOMEM);
    EXPECT_EQ(ThreadStateGuard(view_.Hold()).status(), PYHOLD_ENOMEM);
    EXPECT_EQ(pyhold_thread_ensure_view(view_.raw()), PYHOLD_ENOMEM);
    EXPECT_EQ(fake_current(), nullptr);
    fake_set_no_memory(false);
    ThreadStateGuard guard(view_);
    _ts* state = fake_current();
    fake_set_no_memory(true);
    EXPECT_EQ(ThreadStateGuard(sub_view).status(), PYHOLD_ENOMEM);
    EXPECT_EQ(fake_current(), state);
    EXPECT_TRUE(ThreadStateGuard(view_));  // nests: needs none
    fake_set_no_memory(false);
  }).join();
  fake_restore(sub_state);
  fake_interp_end(sub);  // not held by what failed
}

TEST_F(ThreadTest, RefusedEnsureLeavesTheThreadAsItWas) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  fake_interp_end(sub);
  _ts* state = fake_current();
  EXPECT_EQ(ThreadStateGuard(sub_view).status(), PYHOLD_EFINALIZING);
  EXPECT_EQ(pyhold_thread_ensure_view(sub_view.raw()), PYHOLD_EFINALIZING);
  EXPECT_EQ(fake_current(), state);
}

TEST_F(ThreadTest, DetachedGilstateOfAnotherInterpreterIsBoundAgain) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  _ts* sub_state = fake_save();
  std::thread([&] {
    fake_thread_attach(main_);
    _ts* state = fake_save();
    {
      EXPECT_TRUE(ThreadStateGuard(sub_view));
    }
    {
      ThreadStateGuard guard(view_);
      EXPECT_EQ(fake_current(), state);  // found again
    }
    fake_restore(state);
    fake_thread_detach();
  }).join();
  fake_restore(sub_state);
  fake_interp_end(sub);
}

// Clearing a state runs destructors, which may call pyhold again.
TEST_F(ThreadTest, DestructorsOfADeletedStateMayEnsure) {
  struct Context {
    InterpreterView view;
    std::atomic<int> nested{0};
  } context{view_, {}};
  fake_on_delete(
      [](void* arg) {
        auto* context = static_cast<Context*>(arg);
        _ts* state = fake_current();
        ThreadStateGuard guard(context->view);
        if (guard && fake_current() == state) ++context->nested;
        ThreadStateDetachGuard detached;
        if (!detached) context->nested = -100;
      },
      &context);
  InterpreterView per_call = view_.With(PYHOLD_PER_CALL);
  std::thread([&] { EXPECT_TRUE(ThreadStateGuard(per_call)); }).join();
  EXPECT_EQ(context.nested, 1);
  EXPECT_EQ(fake_state_count(main_), 1);
}

TEST_F(ThreadTest, KeptStateIsDeletedByTheNextThreadThatMakesOne) {
  pyhold_set_service_thread(false);  // else that one does
  while (HasServiceThread()) std::this_thread::yield();
  for (int i = 0; i < 5; ++i) {
    std::thread([&] {
      _ts* state = nullptr;
      for (int call = 0; call < 3; ++call) {
        ThreadStateGuard guard(view_);
        if (call == 0) state = fake_current();
        EXPECT_EQ(fake_current(), state);
        EXPECT_EQ(fake_state_count(main_), 2);
      }
    }).join();
    EXPECT_EQ(fake_state_count(main_), 2);
  }
  pyhold_set_service_thread(true);
}

TEST_F(ThreadTest, WithoutAGilAnExitingThreadDeletesItsOwnState) {
  fake_set_no_gil(true);
  std::thread([&] { EXPECT_TRUE(ThreadStateGuard(view_)); }).join();
  EXPECT_EQ(fake_state_count(main_), 1);
  fake_set_no_gil(false);
}

// The end of an interpreter, and whether it waits for a thread, or has passed.
class End {
 public:
  End() {
    pyhold_wait_policy policy{};
    policy.warn_after_ms = 1;
    policy.report = [](const pyhold_wait_report* report, void* self) {
      for (std::size_t i = 0; i < report->holder_count; ++i)
        static_cast<End*>(self)->awaits_ = report->holders[i]->thread_id;
    };
    policy.arg = this;
    pyhold_set_wait_policy(&policy);
  }
  ~End() { pyhold_set_wait_policy(nullptr); }

  void Of(_is* interp) {
    fake_interp_end(interp);
    passed_ = true;
  }
  // Returns when it is known whether it waits for this thread.
  bool AwaitsMe() {
    while (awaits_ != gettid() && !passed_) std::this_thread::yield();
    return !passed_;
  }

 private:
  std::atomic<std::int64_t> awaits_{0};
  std::atomic<bool> passed_{false};
};

// A thread that is in the interpreter by something else than pyhold, and visits
// another one, comes back to one that has not ended.
TEST_F(ThreadTest, EndAwaitsAThreadThatVisitsAnotherInterpreter) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  End end;
  std::promise<void> away;
  std::thread visitor([&] {
    fake_thread_attach(sub);
    {
      ThreadStateGuard guard(view_);
      away.set_value();
      EXPECT_TRUE(end.AwaitsMe());
    }
    EXPECT_NE(fake_current(), nullptr);
    fake_thread_detach();
  });
  away.get_future().wait();
  end.Of(sub);
  visitor.join();
}

// A guard protects until its state is detached, and not a moment less: a GIL would hide
// it, which the fake port has not.
TEST(ThreadEndTest, EndAwaitsTheDetach) {
  _is* main = fake_interp_begin(true);
  InterpreterView view = InterpreterView::Current();
  struct {
    End end;
    std::promise<void> leaves;
    bool awaited = false;
  } leaving;
  std::thread user([&] {
    EXPECT_TRUE(
        ThreadStateGuard(view));  // makes the state: the next way is short
    std::optional<ThreadStateGuard> guard(std::in_place, view);
    EXPECT_TRUE(*guard);
    fake_before_detach(
        [](void* arg) {
          auto* l = static_cast<decltype(leaving)*>(arg);
          l->leaves.set_value();
          l->awaited = l->end.AwaitsMe();
        },
        &leaving);
    guard.reset();
    EXPECT_TRUE(leaving.awaited);
  });
  leaving.leaves.get_future().wait();
  leaving.end.Of(main);
  user.join();
}

// A thread that had detached, holding nothing, comes back while the gate waits for
// another one, which may need it. It is waited for until it is attached.
TEST_F(ThreadTest, ThreadComesBackWhileTheGateWaits) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  struct {
    End end;
    std::promise<void> inside, away, back;
    bool awaited = false;
  } meet;
  std::thread holder([&] {
    ThreadStateGuard guard(sub_view);
    EXPECT_TRUE(guard);
    meet.inside.set_value();
    meet.back.get_future().wait();
  });
  std::thread daemon([&] {
    fake_thread_attach(sub);
    {
      ThreadStateDetachGuard detached;
      meet.away.set_value();
      while (!sub_view.IsClosed()) std::this_thread::yield();
      fake_before_attach(
          [](void* arg) {
            auto* m = static_cast<decltype(meet)*>(arg);
            m->back.set_value();
            m->awaited = m->end.AwaitsMe();
          },
          &meet);
    }
    EXPECT_TRUE(meet.awaited);
    fake_thread_detach();
  });
  meet.inside.get_future().wait();
  meet.away.get_future().wait();
  meet.end.Of(sub);
  holder.join();
  daemon.join();
}

// INV8: the count of users is what it was, in whatever order ensures are left.
TEST_F(ThreadTest, EachUseIsCountedOnce) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  std::thread([&] {
    constexpr int kGuards = 4;
    int order[kGuards] = {0, 1, 2, 3};
    _ts* kept = nullptr;
    int kept_users = 0;  // inside of one guard
    do {
      // Each is made where the one before left the thread: attached, or, after
      // the first, detached.
      for (bool detaches : {false, true}) {
        std::optional<ThreadStateGuard> guards[kGuards];
        guards[0].emplace(view_);
        if (kept == nullptr) {
          kept = fake_current();
          kept_users = fake_users();
        }
        EXPECT_EQ(fake_current(), kept);
        EXPECT_EQ(fake_users(), kept_users);
        std::optional<pyhold::ThreadStateDetachGuard> detached;
        if (detaches) detached.emplace();
        guards[1].emplace(view_);
        guards[2].emplace(sub_view);
        guards[3].emplace(sub_view);
        // What has set a state aside is left before what is below it.
        guards[3].reset();
        guards[2].reset();
        if (detaches) {
          guards[1].reset();
          detached.reset();
          guards[1].emplace(view_);
        }
        guards[2].emplace(view_);
        guards[3].emplace(view_);
        for (int i : order) guards[i].reset();
        EXPECT_EQ(fake_current(), nullptr);
      }
    } while (std::next_permutation(order, order + kGuards));
    ThreadStateGuard again(view_);
    EXPECT_EQ(fake_current(), kept);
    EXPECT_EQ(fake_users(), kept_users);
  }).join();
  fake_interp_end(sub);
}

// INV9: what a call leaves is gone when it ends; what others left in between, when
// the next one begins.
TEST_F(ThreadTest, KeptStateHoldsNothingThatACallLeft) {
  static int destroyed;
  destroyed = 0;
  std::thread([&] {
    _ts* kept = nullptr;
    auto leave_all = [] {
      fake_leave_value();
      fake_leave_error();
    };
    for (int i = 0; i < 3; ++i) {
      std::optional<ThreadStateGuard> outer(std::in_place, view_);
      EXPECT_FALSE(fake_has_value() || fake_has_error());
      kept = fake_current();
      {
        ThreadStateGuard inner(view_);
        leave_all();
      }
      EXPECT_TRUE(fake_has_value() && fake_has_error());  // the outer one's
      fake_on_delete([](void*) { ++destroyed; }, nullptr);
      outer.reset();
      EXPECT_EQ(destroyed, i + 1);
      fake_on_delete(nullptr, nullptr);
    }
    // Another, who does not count.
    fake_restore(kept);
    leave_all();
    fake_save();
    ThreadStateGuard next(view_);
    EXPECT_FALSE(fake_has_value() || fake_has_error());
  }).join();
}

TEST_F(ThreadTest, DeletedStateIsNotBoundAgain) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  _ts* sub_state = fake_save();
  std::thread([&] {
    std::optional<pyhold::PersistentThreadState> state(std::in_place, view_);
    {
      ThreadStateGuard guard(view_);
    }
    ThreadStateGuard guard(sub_view);  // would bind it again
    state.reset();
    EXPECT_EQ(fake_state_count(main_), 1);
  }).join();
  fake_restore(sub_state);
  fake_interp_end(sub);
}

// PyGILState_Ensure attached the state: who owned it may let go of it, but it
// is there until PyGILState_Release has detached it.
TEST_F(ThreadTest, StateThatWasSetAsideIsNotDeleted) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  _ts* sub_state = fake_save();
  std::thread([&] {
    std::optional<pyhold::PersistentThreadState> state(std::in_place, view_);
    _ts* raw;
    {
      ThreadStateGuard guard(view_);
      raw = fake_current();
    }
    fake_restore(raw);
    {
      ThreadStateGuard guard(sub_view);
      state.reset();
    }
    EXPECT_EQ(fake_current(), raw);
    EXPECT_EQ(fake_save(), raw);
    {
      ThreadStateGuard guard(view_);
    }  // deletes it
    EXPECT_EQ(fake_state_count(main_), 1);
  }).join();
  fake_restore(sub_state);
  fake_interp_end(sub);
}

// A state that a frame of this thread set aside is this thread's own.
TEST_F(ThreadTest, StateThatWasSetAsideIsFound) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  _ts* state = fake_current();
  {
    ThreadStateDetachGuard detached;
    ThreadStateGuard back(sub_view);
    EXPECT_EQ(fake_current(), state);
  }
  {
    ThreadStateGuard away(view_);
    ThreadStateGuard back(sub_view);
    EXPECT_EQ(fake_current(), state);
  }
  EXPECT_EQ(fake_current(), state);
  fake_interp_end(sub);
}

TEST_F(ThreadTest, DaemonsNestedEnsureProtectsByItself) {
  _is* sub = fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  std::promise<void> daemon, go_on, nested;
  std::thread other([&] {
    std::optional<ThreadStateGuard> guard(std::in_place, sub_view);
    EXPECT_EQ(pyhold_thread_set_daemon(true), PYHOLD_OK);
    EXPECT_EQ(pyhold_thread_set_daemon(true), PYHOLD_OK);
    {
      ThreadStateGuard inner(sub_view);
      EXPECT_TRUE(inner);
      daemon.set_value();
      // The end has begun and waits for this one.
      while (InterpreterRef::Lookup(sub_view.id())) std::this_thread::yield();
      EXPECT_TRUE(ThreadStateGuard(sub_view));
      EXPECT_EQ(pyhold_thread_set_daemon(false), PYHOLD_OK);
    }
  });
  daemon.get_future().wait();
  fake_interp_end(sub);
  other.join();
}

TEST_F(ThreadTest, ManyInterpretersLeaveNoSlotsBehind) {
  // Each visit makes a slot; those of ended interpreters go with the next one.
  // LeakSanitizer and the assertion in record_unref() look at the rest.
  std::promise<InterpreterView> next[20];
  std::promise<void> done[20];
  std::thread visitor([&] {
    for (int i = 0; i < 20; ++i) {
      InterpreterView view = next[i].get_future().get();
      {
        ThreadStateGuard guard(view);
        EXPECT_TRUE(guard);
      }
      done[i].set_value();
    }
  });
  for (int i = 0; i < 20; ++i) {
    _is* sub = fake_interp_begin(false);
    next[i].set_value(InterpreterView::Current());
    done[i].get_future().wait();
    fake_interp_end(sub);
  }
  visitor.join();
}

TEST_F(ThreadTest, MovedFromAndCopiedRefsCountRight) {
  InterpreterRef a = view_.Hold();
  InterpreterRef b = a;
  InterpreterRef c = std::move(a);
  EXPECT_FALSE(a);
  EXPECT_EQ(a.status(), PYHOLD_EMISUSE);
  a = b;
  b = std::move(c);
  InterpreterRef& same = b;
  b = same;
  InterpreterView v = view_, w = std::move(v);
  EXPECT_FALSE(v);
  EXPECT_TRUE(w);
  v = w;
  pyhold_interp_release(std::move(a).IntoRaw());
  EXPECT_FALSE(a);
  InterpreterRef d = InterpreterRef::FromRaw(std::move(b).IntoRaw());
  EXPECT_EQ(d.state(), main_);
  // TearDown() hangs if one is left over.
}

// Threads come, ensure once and go, while interpreters end: under
// ThreadSanitizer this looks for races between a slot's end and a waiter.
TEST_F(ThreadTest, ThreadsExitWhileTheGateCloses) {
  for (int round = 0; round < 40; ++round) {
    _is* sub = fake_interp_begin(false);
    InterpreterView sub_view = InterpreterView::Current();
    std::atomic<int> started{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; ++t) {
      threads.emplace_back([&] {
        ++started;
        {
          (void)ThreadStateGuard(sub_view).status();
        }
        (void)ThreadStateGuard(view_).status();
      });
    }
    while (started < 3) std::this_thread::yield();
    fake_interp_end(sub);
    for (auto& thread : threads) thread.join();
  }
  std::thread([&] {
    ThreadStateGuard guard(view_);
    EXPECT_EQ(fake_state_count(main_), 2);
  }).join();
}

TEST_F(ThreadTest, ObjectsAreGivenBackWhereverTheyAreFreed) {
  auto make = [&] {
    pyhold_object* object;
    EXPECT_EQ(pyhold_object_new(view_.raw(), fake_object_new(main_), &object),
              PYHOLD_OK);
    return object;
  };
  pyhold_object* object = make();
  pyhold_object_free(pyhold_object_dup(object));
  EXPECT_EQ(fake_object_count(main_), 1);
  pyhold_object_free(object);  // attached: at once
  EXPECT_EQ(fake_object_count(main_), 0);
  object = make();
  std::thread([&] { pyhold_object_free(object); }).join();
  {
    pyhold::ThreadStateDetachGuard detached;
    EXPECT_EQ(pyhold_deferred_wait(view_.raw(), 60000), PYHOLD_OK);
  }
  EXPECT_EQ(fake_object_count(main_), 0);
  pyhold_object_free(nullptr);
}

// Threads free objects, detached and attached, while the interpreter ends: each
// object is given back, or counted.
TEST_F(ThreadTest, ObjectsAreFreedWhileTheGateCloses) {
  for (int round = 0; round < 40; ++round) {
    _is* sub = fake_interp_begin(false);
    InterpreterView sub_view = InterpreterView::Current();
    constexpr int kThreads = 6, kEach = 100;
    std::vector<pyhold_object*> objects;
    for (int i = 0; i < kThreads * kEach; ++i) {
      pyhold_object* object;
      ASSERT_EQ(
          pyhold_object_new(sub_view.raw(), fake_object_new(sub), &object),
          PYHOLD_OK);
      objects.push_back(object);
    }
    const std::uint64_t leaked = pyhold_deferred_leaked();
    std::atomic<int> started{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        // Has its slot then, and takes no lock below: nothing but the list
        // orders the threads.
        {
          ThreadStateGuard once(sub_view);
        }
        ++started;
        while (started < kThreads) std::this_thread::yield();
        for (int i = 0; i < kEach; ++i) {
          if (i % 3 == 0) {
            ThreadStateGuard guard(sub_view);
            pyhold_object_free(objects[t * kEach + i]);
          } else {
            pyhold_object_free(objects[t * kEach + i]);
          }
        }
      });
    }
    while (started < kThreads) std::this_thread::yield();
    fake_interp_end(sub);
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(fake_object_count(sub),
              static_cast<int>(pyhold_deferred_leaked() - leaked));
  }
}

// The main interpreter ends those that are left, without attaching to them: what
// is deferred there is run with `false`, and nobody waits for it any more.
TEST(ThreadLeftOverTest, WhatIsDeferredToALeftOverInterpreterIsGivenUp) {
  pyhold_set_service_thread(false);
  while (HasServiceThread()) std::this_thread::yield();
  _is* main = fake_interp_begin(true);
  InterpreterView main_view = InterpreterView::Current();
  _ts* main_state = fake_current();
  fake_interp_begin(false);
  InterpreterView sub_view = InterpreterView::Current();
  fake_save();
  fake_restore(main_state);
  static int runs, late;
  auto run = [](pyhold_deferred*, bool attached) {
    ++runs;
    if (!attached) ++late;
  };
  const std::uint64_t leaked = pyhold_deferred_leaked();
  pyhold_deferred nodes[3] = {{nullptr, run}, {nullptr, run}, {nullptr, run}};
  pyhold_defer(sub_view.raw(), &nodes[0]);
  pyhold_defer(sub_view.raw(), &nodes[1]);
  pyhold_defer(main_view.raw(), &nodes[2]);
  EXPECT_EQ(pyhold_deferred_count(sub_view.raw()), 2u);
  fake_interp_end(main);
  EXPECT_EQ(runs, 3);
  EXPECT_EQ(late, 2);
  EXPECT_EQ(pyhold_deferred_leaked() - leaked, 2u);
  EXPECT_EQ(pyhold_deferred_count(sub_view.raw()), 0u);
  EXPECT_EQ(pyhold_deferred_count(main_view.raw()), 0u);
  EXPECT_EQ(pyhold_deferred_wait(sub_view.raw(), 0), PYHOLD_OK);
  pyhold_set_service_thread(true);
}

// Threads call once and go, leaving states and taking away others', while the
// main interpreter ends, again and again.
class ThreadChurnTest : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(, ThreadChurnTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "WithoutAGil" : "WithAGil";
                         });
TEST_P(ThreadChurnTest, StatesOfExitedThreadsAreLeftOrTakenAway) {
  fake_set_no_gil(GetParam());
  for (int round = 0; round < 40; ++round) {
    _is* main = fake_interp_begin(true);
    InterpreterView view = InterpreterView::Current();
    std::atomic<int> started{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; ++t) {
      threads.emplace_back([&] {
        ++started;
        for (int i = 0; i < 3; ++i) {
          std::thread([&] {
            for (int call = 0; call < 2; ++call) {
              ThreadStateGuard guard(view);
              EXPECT_EQ(fake_current() != nullptr, static_cast<bool>(guard));
            }
          }).join();
        }
      });
    }
    while (started < 3) std::this_thread::yield();
    if (round % 2 == 0) fake_interp_end(main);
    for (auto& thread : threads) thread.join();
    if (round % 2 != 0) {
      EXPECT_LE(fake_state_count(main), GetParam() ? 1 : 19);
      fake_interp_end(main);
    }
  }
  fake_set_no_gil(false);
}

using ThreadDeathTest = ThreadTest;

TEST_F(ThreadDeathTest, LeavingAGuardOfAnotherThreadEndsTheProcess) {
  EXPECT_DEATH(
      {
        pyhold_frame* frame;
        if (pyhold_frame_enter_view(&frame, view_.raw(), nullptr, 0) != 0)
          return;
        std::thread([&] { pyhold_frame_leave(frame); }).join();
      },
      "on another thread than its own");
}

TEST_F(ThreadDeathTest, ReleaseDoesNotTakeAGuardsFrame) {
  EXPECT_DEATH(
      {
        ThreadStateGuard guard(view_);
        pyhold_thread_release();
      },
      "without an ensure");
}

}  // namespace
