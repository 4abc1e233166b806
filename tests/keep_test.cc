// Thread states that last, on real interpreters.
#include "tests/support/python.h"

#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterRef;
using pyhold::InterpreterView;
using pyhold::PersistentThreadState;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;
using testing::HasSubstr;

static_assert(std::is_nothrow_move_constructible_v<PersistentThreadState>);
static_assert(!std::is_copy_constructible_v<PersistentThreadState>);

void CallPython() { REQUIRE(Eval("sum([1, 2, 3])") == 6); }

void OnNewThread(const std::function<void()>& fn) {
  ThreadStateDetachGuard detached;
  REQUIRE(detached);
  std::thread(fn).join();
}

// A tracer of thread states: threading.local gives each thread its own.
void DefineLocal() {
  Exec(R"(
import threading
local = threading.local()
ended = []
class Value:
    def __init__(self): self.count = 0
    def __del__(self): ended.append(self.count)
def count():
    if not hasattr(local, 'value'): local.value = Value()
    local.value.count += 1
    return local.value.count
)");
}

SCENARIO(KeptFromCallToCall) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  InterpreterView per_call = view.With(PYHOLD_PER_CALL);
  REQUIRE(per_call && per_call.id() == 0);
  REQUIRE(view.With(static_cast<pyhold_keep>(7)).status() == PYHOLD_EMISUSE);
  DefineLocal();
  OnNewThread([&] {
    for (int i = 0; i < 3; ++i) {
      ThreadStateGuard guard(per_call);
      REQUIRE(Eval("count()") == 1);  // each call starts afresh
    }
    REQUIRE(PyGILState_GetThisThreadState() == nullptr);
    PyThreadState* state = nullptr;
    for (int i = 0; i < 3; ++i) {
      ThreadStateGuard guard(view);
      REQUIRE(Eval("count()") == 1);  // so does it here, in the same state
      REQUIRE(Eval("len(ended)") == 3 + i);
      if (i == 0) state = Attached();
      REQUIRE(Attached() == state);
      ThreadStateGuard nested(view);
      REQUIRE(Eval("count()") == 2);
    }
    ThreadStateGuard guard(per_call);  // there is one: it is used
    REQUIRE(Eval("count()") == 1);
    PyGILState_STATE old = PyGILState_Ensure();
    REQUIRE(Attached() == state);
    PyGILState_Release(old);
  });
  REQUIRE(Eval("ended == [1, 1, 1, 2, 2, 2, 1]") == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(KeepTest, StateIsKeptUnlessPerCallAndEachCallStartsFresh) {
  EXPECT_EQ(RunChild("KeptFromCallToCall"), Clean());
}

SCENARIO(PyGILStateUsesTheKeptState) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  OnNewThread([&] {
    PyThreadState* state;
    {
      ThreadStateGuard guard(view);
      state = Attached();
    }
    for (int i = 0; i < 3; ++i) {
      PyGILState_STATE old = PyGILState_Ensure();
      REQUIRE(Attached() == state);
      CallPython();
      PyGILState_Release(old);
    }
    ThreadStateGuard guard(view);
    REQUIRE(Attached() == state);
    CallPython();
  });
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(KeepTest, PyGILStateUsesTheKeptStateAndLeavesIt) {
  EXPECT_EQ(RunChild("PyGILStateUsesTheKeptState"), Clean());
}

SCENARIO(ExceptionIsLeft) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(R"(
import sys
told = []
sys.unraisablehook = lambda u: told.append((u.exc_type, str(u.err_msg), repr(u.object)))
)");
  OnNewThread([&] {
    {
      ThreadStateGuard guard(view);
      {
        ThreadStateGuard nested(view);
        PyErr_SetString(PyExc_ValueError, "nobody looks");
      }
      REQUIRE(PyErr_ExceptionMatches(PyExc_ValueError));  // the outer one may
    }
    {
      ThreadStateGuard guard(view);
      REQUIRE(PyErr_Occurred() == nullptr);
      REQUIRE(Eval("len(told) == 1 and told[0][0] is ValueError") == 1);
      REQUIRE(Eval("'keep_test.cc:' in told[0][1] + told[0][2]") == 1);
    }
    {  // a state that it owns, and the C API, which Cython builds on
      PersistentThreadState state(view);
      for (bool is_second : {false, true}) {
        ThreadStateGuard guard(view);
        REQUIRE((PyErr_Occurred() != nullptr) == is_second);
        PyErr_SetString(PyExc_KeyError, "for later");
      }
      ThreadStateGuard guard(view);
      PyErr_Clear();
    }
    for (bool keeps : {false, true}) {
      REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
      REQUIRE(PyErr_Occurred() == nullptr);
      PyErr_SetString(PyExc_KeyError, "for later");
      if (keeps)
        pyhold_thread_release_keeping_error();
      else
        pyhold_thread_release();
    }
    ThreadStateGuard guard(view);
    REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    REQUIRE(Eval("len(told)") == 1);
  });
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(KeepTest, ExceptionThatAGuardLeavesIsReportedAndNotTheNextOnes) {
  EXPECT_EQ(RunChild("ExceptionIsLeft"), Clean());
}

// --- Threads that exit ---

SCENARIO(NextThreadReclaims) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineLocal();
  for (int i = 0; i < 20; ++i) {
    OnNewThread([&] {
      ThreadStateGuard guard(view);
      REQUIRE(Eval("count()") == 1);
      // This one's, main's, and of one that is just being deleted, the service
      // thread's with it.
      REQUIRE(CountStates() <= 4);
      REQUIRE(PyGILState_GetThisThreadState() == Attached());
      REQUIRE(Eval("len(ended)") == i);
    });
    REQUIRE(CountStates() <= 3);
    REQUIRE(Eval("len(__import__('sys')._current_frames())") <= 2);
    REQUIRE(Eval("len(ended)") == i + 1);  // with the call
  }
  // The last one's is with the interpreter until that ends.
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(KeepTest, NextThreadReclaimsWhatExitedThreadsLeft) {
  EXPECT_EQ(RunChild("NextThreadReclaims"), Clean());
}

// The scenario that makes others deadlock: a pool is joined with the GIL held.
SCENARIO(JoinWithTheGil) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> pool;
    std::atomic<int> called{0};
    std::promise<void> go;
    std::shared_future<void> gone = go.get_future().share();
    {
      ThreadStateDetachGuard detached;
      for (int i = 0; i < 4; ++i) {
        pool.emplace_back([&] {
          {
            ThreadStateGuard guard(view);
            REQUIRE(guard);
            CallPython();
          }
          ++called;
          gone.wait();
        });
      }
      while (called < 4) std::this_thread::yield();
    }
    go.set_value();
    for (auto& thread : pool) thread.join();  // attached
    CallPython();
  }
  REQUIRE(CountStates() <= 6);  // one may be the service thread's
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(KeepTest, PoolIsJoinedWithTheGilHeld) {
  EXPECT_EQ(RunChild("JoinWithTheGil"), Clean());
}

long ResidentKib() {
  std::ifstream statm("/proc/self/statm");
  long total, resident;
  statm >> total >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

SCENARIO(ManyShortThreads) {
  mallopt(M_ARENA_MAX, 1);  // glibc's own growth is not of interest
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::atomic<long> most_states{0};
  long after_warm_up = 0;
  {
    ThreadStateDetachGuard detached;
    for (int i = 0; i < argument; i += 4) {
      std::thread threads[4];
      for (auto& thread : threads) {
        thread = std::thread([&] {
          ThreadStateGuard guard(view);
          REQUIRE(guard);
          CallPython();
          long states = CountStates();
          if (states > most_states) most_states = states;
        });
      }
      for (auto& thread : threads) thread.join();
      if (i == 1000) after_warm_up = ResidentKib();
    }
  }
  long growth = ResidentKib() - after_warm_up;
  // Without a GIL, 3.13.5 itself loses 1 KiB for each thread state that was
  // made and deleted, through PyGILState_Ensure as well.
  long allowed = kHasGil ? 512 : 512 + argument;
  printf("%d threads: %ld KiB of %ld allowed, at most %ld states\n", argument,
         growth, allowed, most_states.load());
  REQUIRE(growth < allowed);
  REQUIRE(most_states <= 16);
  REQUIRE(Eval("len(__import__('sys')._current_frames())") <= 16);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(KeepTest, ShortThreadsLeaveNoGrowth) {
  EXPECT_EQ(RunChild("ManyShortThreads", 30000, 280), Clean());
}

// A thread that cannot have its exit seen is refused, until it can.
SCENARIO(NoKeyIsLeft) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::vector<pthread_key_t> keys;
  for (pthread_key_t key; pthread_key_create(&key, nullptr) == 0;)
    keys.push_back(key);
  PyThreadState* state = PyEval_SaveThread();
  std::thread([&] {
    REQUIRE(ThreadStateGuard(view).status() == PYHOLD_ENOMEM);
    REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_ENOMEM);
    REQUIRE(pthread_key_delete(keys.back()) == 0);
    ThreadStateGuard guard(view);
    REQUIRE(guard);
    CallPython();
  }).join();
  PyEval_RestoreThread(state);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(KeepTest, WithoutAKeyAThreadIsRefusedUntilThereIsOne) {
  EXPECT_EQ(RunChild("NoKeyIsLeft"), Clean());
}

// Kept states are CPython's to delete when it ends; a thread that lives on is
// refused, and starts afresh with the next runtime.
SCENARIO(KeptStateAndTheEnd) {
  const int rounds = kKeptStateMayOutliveRuntime ? 3 : 1;
  std::promise<InterpreterView> views[3];
  std::promise<void> done[3];
  std::promise<void> ended[3];
  std::thread survivor([&] {
    for (int i = 0; i < rounds; ++i) {
      InterpreterView view = views[i].get_future().get();
      for (int j = 0; j < 3; ++j) {
        ThreadStateGuard guard(view);
        REQUIRE(guard);
        CallPython();
      }
      PyGILState_STATE old = PyGILState_Ensure();  // finds the new one
      CallPython();
      PyGILState_Release(old);
      done[i].set_value();
      ended[i].get_future().wait();
      REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
    }
  });
  for (int i = 0; i < rounds; ++i) {
    StartPython();
    InterpreterView view = InterpreterView::Current();
    {
      ThreadStateDetachGuard detached;
      views[i].set_value(view);
      done[i].get_future().wait();
      std::thread([&] { ThreadStateGuard guard(view); }).join();  // an orphan
    }
    REQUIRE(Py_FinalizeEx() == 0);
    ended[i].set_value();
  }
  survivor.join();
  return 0;
}
TEST(KeepTest, ThreadWithAKeptStateOutlivesTheRuntime) {
  EXPECT_EQ(RunChild("KeptStateAndTheEnd"), Clean());
}

// --- Persistent states ---

SCENARIO(PersistentIsUsed) {
  StartPython();
  InterpreterView view = InterpreterView::Current().With(PYHOLD_PER_CALL);
  SubInterpreter sub(argument == 0 ? SubInterpreter::kShared
                                   : SubInterpreter::kOwn);
  InterpreterView sub_view = InterpreterView::Current();
  PyThreadState* saved = PyEval_SaveThread();
  std::thread([&] {
    for (const InterpreterView& v : {view, sub_view}) {
      PersistentThreadState state(v);
      REQUIRE(state);
      PersistentThreadState moved(std::move(state));
      REQUIRE(!state && moved);
      PyThreadState* first = nullptr;
      for (int i = 0; i < 3; ++i) {
        ThreadStateGuard guard(v);
        REQUIRE(guard);
        if (i == 0) first = Attached();
        REQUIRE(Attached() == first);
        CallPython();
        REQUIRE(CountStates() == 2);
      }
      PersistentThreadState second(v);  // the same state, for two owners
      moved = PersistentThreadState();
      ThreadStateGuard guard(v);
      REQUIRE(Attached() == first);
    }
    for (const InterpreterView& v : {view, sub_view}) {
      ThreadStateGuard guard(v);
      REQUIRE(CountStates() == 2);  // the old ones are gone
    }
  }).join();
  PyEval_RestoreThread(saved);
  REQUIRE(CountStates() == 1);
  sub.End();
  REQUIRE(CountStates() == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(PersistentTest, EveryGuardOnItsThreadUsesIt) {
  EXPECT_EQ(RunChild("PersistentIsUsed", 0), Clean());
  if (SubInterpreter::kHasOwnGil) {
    EXPECT_EQ(RunChild("PersistentIsUsed", 1), Clean());
  }
}

SCENARIO(PersistentCApi) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  OnNewThread([&] {
    pyhold_thread_state* state;
    REQUIRE(pyhold_thread_state_new(view.raw(), &state) == PYHOLD_OK);
    for (int i = 0; i < 3; ++i) {
      REQUIRE(pyhold_thread_state_attach(state) == PYHOLD_OK);
      REQUIRE(pyhold_thread_state_attach(state) == PYHOLD_EMISUSE);
      CallPython();
      {
        ThreadStateGuard nested(view);
      }
      pyhold_thread_state_detach(state);
    }
    std::thread([&] {
      REQUIRE(pyhold_thread_state_attach(state) == PYHOLD_EMISUSE);
    }).join();
    REQUIRE(pyhold_thread_state_attach(state) == PYHOLD_OK);
    pyhold_thread_state_delete(state);  // detaches it first
    REQUIRE(PyGILState_GetThisThreadState() == nullptr);
  });
  pyhold_thread_state_delete(nullptr);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(PersistentTest, CApiAttachesAndDetaches) {
  EXPECT_EQ(RunChild("PersistentCApi"), Clean());
}

// The six cases of the destructor; `argument` is the interpreter, main or sub.
enum Case {
  kDetached,
  kAttached,
  kOtherAttached,
  kWhileClosing,
  kAfterTheEnd,
  kThreadExit,
  kCases
};
const char* const kCaseNames[] = {"Detached",      "Attached",
                                  "OtherAttached", "WhileClosing",
                                  "AfterTheEnd",   "ThreadExit"};

struct CloseWord {
  std::promise<void> promise;
  static void Give(void* arg) {
    static_cast<CloseWord*>(arg)->promise.set_value();
  }
};

SCENARIO(PersistentDestructor) {
  const Case which = static_cast<Case>(argument / 3);
  const bool is_sub = argument % 3 > 0;
  StartPython();
  InterpreterView main_view = InterpreterView::Current();
  SubInterpreter sub(argument % 3 == 1 ? SubInterpreter::kShared
                                       : SubInterpreter::kOwn);
  InterpreterView sub_view = InterpreterView::Current();
  const InterpreterView& view = is_sub ? sub_view : main_view;
  const InterpreterView& other = is_sub ? main_view : sub_view;
  CloseWord closing;
  REQUIRE(pyhold_on_close(view.raw(), CloseWord::Give, &closing) == PYHOLD_OK);
  std::promise<void> made, ended;
  PyThreadState* saved = PyEval_SaveThread();
  std::thread owner([&] {
    static thread_local PersistentThreadState at_exit;
    auto state = std::make_unique<PersistentThreadState>(view);
    REQUIRE(*state);
    {
      ThreadStateGuard guard(view);
      CallPython();
    }
    switch (which) {
      case kDetached:
        state.reset();
        break;
      case kAttached: {
        ThreadStateGuard guard(view);
        state.reset();
        CallPython();
        ThreadStateGuard nested(view);
        CallPython();
        break;
      }
      case kOtherAttached: {
        ThreadStateGuard guard(other);
        PyThreadState* attached = Attached();
        state.reset();
        REQUIRE(Attached() == attached);
        CallPython();
        break;
      }
      case kWhileClosing:
        made.set_value();
        closing.promise.get_future().wait();
        // The word comes with the atexit callbacks, before the gate closes.
        while (ThreadStateGuard(view)) std::this_thread::yield();
        REQUIRE(ThreadStateGuard(view).status() == PYHOLD_EFINALIZING);
        state.reset();
        return;
      case kAfterTheEnd:
        made.set_value();
        if (is_sub) {  // must let go before it can end
          closing.promise.get_future().wait();
          state.reset();
        }
        ended.get_future().wait();
        state.reset();
        return;
      case kThreadExit:
        at_exit = std::move(*state);
        break;
      case kCases:
        break;
    }
    made.set_value();
  });
  made.get_future().wait();
  const bool joined_early = which != kWhileClosing && which != kAfterTheEnd;
  if (joined_early) owner.join();
  PyEval_RestoreThread(saved);
  sub.End();  // dies of a state that is left
  if (joined_early && is_sub) AwaitOneState();
  REQUIRE(Py_FinalizeEx() == 0);
  if (!joined_early) {
    ended.set_value();
    owner.join();
  }
  StartPython();  // all is well
  CallPython();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}

class PersistentCaseTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, PersistentCaseTest,
                         testing::Range(0, int{kCases}), [](const auto& info) {
                           return kCaseNames[info.param];
                         });
TEST_P(PersistentCaseTest, DestructorIsRight) {
  for (int i = 0; i < (SubInterpreter::kHasOwnGil ? 3 : 2); ++i)
    EXPECT_EQ(RunChild("PersistentDestructor", GetParam() * 3 + i), Clean());
}

SCENARIO(PersistentOnAWrongThread) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  PersistentThreadState stolen;
  OnNewThread([&] { stolen = PersistentThreadState(view); });
  stolen = PersistentThreadState();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(PersistentTest, DestroyedOnAWrongThreadIsLeaked) {
  ChildResult result = RunChild("PersistentOnAWrongThread");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("which is not its own: it is leaked"));
}

// --- pyhold_on_close ---

SCENARIO(OnClose) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  static std::atomic<int> calls;
  auto count = [](void* arg) { calls += *static_cast<int*>(arg); };
  int one = 1, ten = 10, hundred = 100;
  REQUIRE(pyhold_on_close(view.raw(), count, &one) == PYHOLD_OK);
  REQUIRE(pyhold_on_close(view.raw(), count, &ten) == PYHOLD_OK);
  REQUIRE(pyhold_on_close(view.raw(), count, &hundred) == PYHOLD_OK);
  REQUIRE(pyhold_on_close_cancel(view.raw(), count, &ten));
  REQUIRE(!pyhold_on_close_cancel(view.raw(), count, &ten));
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(calls == 101);
  REQUIRE(!pyhold_on_close_cancel(view.raw(), count, &one));
  REQUIRE(pyhold_on_close(view.raw(), count, &one) == PYHOLD_EFINALIZING);
  return 0;
}
TEST(OnCloseTest, IsCalledOnceUnlessTakenBack) {
  EXPECT_EQ(RunChild("OnClose"), Clean());
}

static_assert(!std::is_move_constructible_v<pyhold::OnClose>);

SCENARIO(OnCloseOwner) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::string told;
  pyhold::OnClose first(view, [&] { told += "first "; });
  pyhold::OnClose second(view, [&] {
    REQUIRE(Attached() == nullptr);
    told += "second ";
  });
  REQUIRE(first && second.status() == PYHOLD_OK);
  {
    pyhold::OnClose gone(view, [] { REQUIRE(false); });
  }
  std::weak_ptr<int> captured;
  {
    auto shared = std::make_shared<int>(1);
    captured = shared;
    pyhold::OnClose gone(view, [shared] { REQUIRE(false); });
    shared.reset();
    REQUIRE(!captured.expired());
  }
  REQUIRE(captured.expired());
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(told == "second first ");
  pyhold::OnClose late(view, [] { REQUIRE(false); });
  REQUIRE(!late && late.status() == PYHOLD_EFINALIZING);
  pyhold::OnClose empty(InterpreterView(), [] { REQUIRE(false); });
  REQUIRE(empty.status() == PYHOLD_EMISUSE);
  return 0;
}
TEST(OnCloseTest, OwnerTakesItBackByItself) {
  EXPECT_EQ(RunChild("OnCloseOwner"), Clean());
}

// The destructor returns after fn has.
SCENARIO(OnCloseDestroyedMeanwhile) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  std::promise<void> runs;
  std::atomic<bool> ended{false};
  std::optional<pyhold::OnClose> on_close(std::in_place, view, [&] {
    runs.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ended = true;
  });
  std::thread destroyer([&] {
    runs.get_future().wait();
    on_close.reset();
    REQUIRE(ended);
  });
  REQUIRE(Py_FinalizeEx() == 0);
  destroyer.join();
  return 0;
}
TEST(OnCloseTest, DestroyingItWaitsWhileItRuns) {
  EXPECT_EQ(RunChild("OnCloseDestroyedMeanwhile"), Clean());
}

}  // namespace
