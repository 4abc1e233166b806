// What a child of fork() finds, over the fake port, where each thing that CPython
// deletes can be told: AddressSanitizer sees its use. Children of real interpreters are
// in fork_test.cc.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <optional>
#include <thread>

#include "gtest/gtest.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"
#include "tests/support/fake_port.h"

namespace {

using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;

void AwaitCleanEnd(pid_t child) {
  int status;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// Forks, as os.fork() does. In the child: does `it`, and ends. In the parent: waits.
// Attached to the main interpreter, or not at all.
void InChild(const std::function<void()>& it) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(20);
    if (fake_current() != nullptr) fake_after_fork();
    it();
    _exit(0);
  }
  AwaitCleanEnd(pid);
}

// The thread has a state that pyhold made, and another one is attached when it forks.
// argument: whether the first one is to last.
SCENARIO(StateThatWasNotAttached) {
  _is* main = fake_interp_begin(true);
  const InterpreterView view = InterpreterView::Current();
  _ts* saved = fake_save();
  std::thread([&] {
    REQUIRE(ThreadStateGuard(view));
    std::optional<pyhold::PersistentThreadState> lasting;
    if (argument == 1) lasting.emplace(view);
    fake_thread_attach(main);
    InChild([&] {
      REQUIRE(fake_state_count(main) == 1);
      fake_save();
      lasting.reset();
      {
        ThreadStateGuard guard(view);  // with the state that is there
        REQUIRE(guard && fake_state_count(main) == 1);
      }
      std::thread([&] { REQUIRE(ThreadStateGuard(view)); }).join();
      ThreadStateGuard guard(view);
      fake_interp_end(main);
    });
    fake_thread_detach();
  }).join();
  fake_restore(saved);
  fake_interp_end(main);
  return 0;
}
TEST(AfterForkTest, StateThatWasNotAttachedIsGone) {
  EXPECT_EQ(RunChild("StateThatWasNotAttached", 0, 60), Clean());
  EXPECT_EQ(RunChild("StateThatWasNotAttached", 1, 60), Clean());
}

// The next thread that makes a state would delete those that exited threads left.
SCENARIO(Orphans) {
  pyhold_set_service_thread(false);
  _is* main = fake_interp_begin(true);
  const InterpreterView view = InterpreterView::Current();
  std::thread([&] { REQUIRE(ThreadStateGuard(view)); }).join();
  REQUIRE(fake_state_count(main) == 2);
  InChild([&] {
    REQUIRE(fake_state_count(main) == 1);
    std::thread([&] {
      ThreadStateGuard guard(view);
      REQUIRE(guard && fake_state_count(main) == 2);
    }).join();
    fake_interp_end(main);
  });
  fake_interp_end(main);
  return 0;
}
TEST(AfterForkTest, StatesOfExitedThreadsAreNotDeletedTwice) {
  EXPECT_EQ(RunChild("Orphans", 0, 60), Clean());
}

// A call of pyhold_on_close() runs on another thread, which waits for one that forks.
SCENARIO(CallThatRuns) {
  struct Call {
    std::promise<void> runs, over;
  } call;
  auto fn = [](void* arg) {
    static_cast<Call*>(arg)->runs.set_value();
    static_cast<Call*>(arg)->over.get_future().wait();
  };
  _is* main = fake_interp_begin(true);
  const InterpreterView view = InterpreterView::Current();
  REQUIRE(pyhold_on_close(view.raw(), fn, &call) == PYHOLD_OK);
  std::thread forker([&] {
    call.runs.get_future().wait();
    {
      ThreadStateGuard guard(view);
      REQUIRE(guard);
      InChild([&] {
        REQUIRE(!pyhold_on_close_cancel(view.raw(), fn, &call));
        fake_interp_end(main);
      });
    }
    call.over.set_value();
  });
  fake_interp_end(main);
  forker.join();
  return 0;
}
TEST(AfterForkTest, CallThatRunsOnAThreadThatIsGoneIsNotWaitedFor) {
  EXPECT_EQ(RunChild("CallThatRuns", 0, 60), Clean());
}

// A thread of a subinterpreter forks while it is in the main one: in the child there
// is nothing to come back to.
SCENARIO(OtherInterpreters) {
  pyhold_set_service_thread(false);
  static std::atomic<int> late{0};
  pyhold_deferred node = {
      nullptr, [](pyhold_deferred*, bool attached) { late += !attached; }};
  _is* main = fake_interp_begin(true);
  const InterpreterView view = InterpreterView::Current();
  _is* sub = fake_interp_begin(false);
  const InterpreterView sub_view = InterpreterView::Current();
  InterpreterRef hold = sub_view.Hold();
  pyhold_defer(sub_view.raw(), &node);
  pid_t child;
  {
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    child = fork();
    if (child == 0) {
      alarm(20);
      REQUIRE(late == 1);  // before they are deleted
      REQUIRE(pyhold_deferred_leaked() == 1);
      REQUIRE(sub_view.Hold().status() == PYHOLD_EFINALIZING);
      fake_after_fork();
      REQUIRE(late == 1);
      REQUIRE(ThreadStateGuard(hold).status() == PYHOLD_EFINALIZING);
      REQUIRE(ThreadStateGuard(sub_view).status() == PYHOLD_EFINALIZING);
      REQUIRE(InterpreterRef::Lookup(fake_interp_id(sub)).status() ==
              PYHOLD_EFINALIZING);
      REQUIRE(InterpreterRef::Lookup(0));
    } else {
      AwaitCleanEnd(child);
    }
  }
  hold = InterpreterRef();
  if (child == 0) {
    REQUIRE(fake_current() == nullptr);
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    fake_interp_end(main);
    _exit(0);
  }
  REQUIRE(late == 0);
  fake_interp_end(sub);
  fake_interp_end(main);
  return 0;
}
TEST(AfterForkTest, OtherInterpretersHaveEnded) {
  EXPECT_EQ(RunChild("OtherInterpreters", 0, 60), Clean());
}

// A hold that the child inherits outlives views, and the interpreter.
SCENARIO(HoldThatOutlives) {
  _is* main = fake_interp_begin(true);
  InterpreterView view = InterpreterView::Current();
  InterpreterRef hold = view.Hold();
  InChild([&] {
    view = InterpreterView();
    fake_interp_end(main);  // does not wait
    REQUIRE(hold.id() == 0);
    REQUIRE(ThreadStateGuard(hold).status() == PYHOLD_EFINALIZING);
    hold = InterpreterRef();
  });
  hold = InterpreterRef();
  fake_interp_end(main);
  return 0;
}
TEST(AfterForkTest, HoldOfBeforeMayOutliveEverything) {
  EXPECT_EQ(RunChild("HoldThatOutlives", 0, 60), Clean());
}

}  // namespace
