// Threads that exit: what they may still do, and what is left of them. On real
// interpreters.
#include "tests/support/python.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;

// The view that destructors use: never deleted.
InterpreterView& View() {
  static auto* view = new InterpreterView;
  return *view;
}

void Start() {
  StartPython();
  View() = InterpreterView::Current();
  Exec(R"(
import faulthandler, sys, tempfile, threading
local = threading.local()
log = []
foreign = []  # values that died on another thread
class Value:
    def __init__(self): self.ident = threading.get_ident()
    def __del__(self):
        if threading.get_ident() != self.ident: foreign.append(1)
def call():
    log.append(hasattr(local, 'x'))
    local.x = Value()
def dump():
    with tempfile.TemporaryFile() as f:
        faulthandler.dump_traceback(f, all_threads=True)
        f.seek(0)
        return f.read().decode(errors='replace').count('hread 0x')
)");
}

void OnNewThread(const std::function<void()>& fn) {
  ThreadStateDetachGuard detached;
  REQUIRE(detached);
  std::thread(fn).join();
}

enum Inside { kOnlyAGuard, kWithGILState, kOnlyGILState, kInsides };

void CallPython(Inside inside) {
  if (inside == kOnlyGILState) {
    PyGILState_STATE old = PyGILState_Ensure();
    Exec("call()");
    PyGILState_Release(old);
    return;
  }
  ThreadStateGuard guard(View());
  REQUIRE(guard);
  PyThreadState* state = Attached();
  Exec("call()");
  if (inside == kOnlyAGuard) return;
  PyGILState_STATE old = PyGILState_Ensure();
  REQUIRE(Attached() == state);
  Exec("assert local.x");
  PyGILState_Release(old);
  Py_BEGIN_ALLOW_THREADS;
  old = PyGILState_Ensure();
  REQUIRE(Attached() == state);
  Exec("assert local.x");
  PyGILState_Release(old);
  Py_END_ALLOW_THREADS;
}

// What is to be so after threads have exited.
void LookAfterwards(long calls) {
  Exec("dump()");  // perhaps there is the service thread, too
  AwaitOneState();
  REQUIRE(Eval("dump()") == 1);
  REQUIRE(Eval("len(sys._current_frames())") == 1);
  REQUIRE(Eval("len(log)") == calls);
  REQUIRE(Eval("any(log)") == 0);  // each call started fresh
  REQUIRE(Eval("len(foreign)") == 0);
  Exec("log.clear()");
  REQUIRE(PyGILState_GetThisThreadState() == Attached());
}

// --- Destructors of pthread keys ---

// How often, and how, a key's destructor calls Python.
struct KeyPlan {
  pthread_key_t key;
  int rounds;
  Inside inside;
};

void CallInDestructor(void* arg) {
  auto* plan = static_cast<KeyPlan*>(arg);
  CallPython(plan->inside);
  if (--plan->rounds > 0) pthread_setspecific(plan->key, plan);
}

constexpr int kMaxRounds = PTHREAD_DESTRUCTOR_ITERATIONS;

SCENARIO(KeyDestructors) {
  const bool key_first = argument % 2 != 0;
  const Inside inside = static_cast<Inside>(argument / 2 % kInsides);
  const bool uses_before = argument / 2 / kInsides == 0;
  pthread_key_t key;
  if (key_first) REQUIRE(pthread_key_create(&key, CallInDestructor) == 0);
  Start();
  // pyhold's key is made here.
  OnNewThread([] { CallPython(kOnlyAGuard); });
  if (!key_first) REQUIRE(pthread_key_create(&key, CallInDestructor) == 0);
  LookAfterwards(1);
  for (int rounds = 1; rounds <= kMaxRounds; ++rounds) {
    printf("%d rounds\n", rounds);
    KeyPlan plans[4];
    std::vector<std::thread> threads;
    {
      ThreadStateDetachGuard detached;
      for (KeyPlan& plan : plans) {
        plan = {key, rounds, inside};
        threads.emplace_back([&] {
          pthread_setspecific(key, &plan);
          if (uses_before) CallPython(inside);
        });
      }
      for (auto& thread : threads) thread.join();
    }
    LookAfterwards(4 * (rounds + uses_before));
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
class ExitKeyTest : public testing::TestWithParam<int> {};
std::string KeyTestName(const testing::TestParamInfo<int>& info) {
  const int i = info.param;
  const char* const insides[] = {"AGuard", "GILStateInIt", "OnlyGILState"};
  return std::string(i % 2 != 0 ? "KeyFirst" : "PyholdFirst") + "_" +
         insides[i / 2 % kInsides] + "_" +
         (i / 2 / kInsides == 0 ? "UsedBefore" : "FirstUse");
}
INSTANTIATE_TEST_SUITE_P(, ExitKeyTest, testing::Range(0, 4 * kInsides),
                         KeyTestName);
TEST_P(ExitKeyTest, DestructorsOfKeysMayCallPythonInEachRound) {
  EXPECT_EQ(RunChild("KeyDestructors", GetParam()), Clean());
}

// While destructors run Python, other threads make and delete states.
SCENARIO(KeyDestructorsAndOthers) {
  Start();
  OnNewThread([] { CallPython(kOnlyAGuard); });
  static pthread_key_t key;
  REQUIRE(pthread_key_create(&key, CallInDestructor) == 0);
  {
    ThreadStateDetachGuard detached;
    for (int i = 0; i < 100; ++i) {
      KeyPlan plan{key, 1 + i % kMaxRounds, static_cast<Inside>(i % kInsides)};
      // On 3.15 it finds the kept state, and what it leaves there stays: see
      // docs/native_threads.md.
      if (PY_VERSION_HEX >= 0x030F0000 && plan.inside == kOnlyGILState)
        plan.inside = kWithGILState;
      std::atomic<bool> stop{false};
      std::thread others[2];
      for (auto& other : others) {
        other = std::thread([&] {
          while (!stop) std::thread([] { CallPython(kWithGILState); }).join();
        });
      }
      std::thread([&] {
        CallPython(kOnlyAGuard);
        pthread_setspecific(key, &plan);
      }).join();
      stop = true;
      for (auto& other : others) other.join();
    }
  }
  AwaitOneState();
  REQUIRE(Eval("any(log) or len(foreign)") == 0);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ExitTest, DestructorsOfKeysRunWhileOthersComeAndGo) {
  EXPECT_EQ(RunChild("KeyDestructorsAndOthers"), Clean());
}

// --- Destructors of C++ thread_local variables ---

struct CallsAtExit {
  bool armed = false;
  Inside inside = kOnlyAGuard;
  ~CallsAtExit() {
    if (!armed) return;
    CallPython(inside);
    CallPython(inside);
  }
};
thread_local CallsAtExit before_use, after_use;

SCENARIO(ThreadLocals) {
  const Inside inside = static_cast<Inside>(argument);
  Start();
  for (bool first_use_in_it : {false, true}) {
    OnNewThread([&] {
      before_use.armed = true;
      before_use.inside = inside;
      if (!first_use_in_it) CallPython(inside);
      after_use.armed = true;
      after_use.inside = inside;
    });
    LookAfterwards(first_use_in_it ? 4 : 5);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ExitTest, DestructorsOfThreadLocalsMayCallPython) {
  for (int i = 0; i < kInsides; ++i)
    EXPECT_EQ(RunChild("ThreadLocals", i), Clean()) << i;
}

// The logger of a C++ library, which Python finalizers use.
struct Logger {
  volatile bool is_alive = true;
  ~Logger() { is_alive = false; }
};
thread_local Logger logger;
std::atomic<int> alive, dead;

SCENARIO(FinalizersAndThreadLocals) {
  Start();
  constexpr int kThreads = 20;
  for (int i = 0; i < kThreads; ++i) {
    OnNewThread([] {
      if (!logger.is_alive) return;
      ThreadStateGuard guard(View());
      PyObject* main = PyImport_AddModule("__main__");
      PyObject* local = PyObject_GetAttrString(main, "local");
      PyObject* capsule = PyCapsule_New(&logger, nullptr, [](PyObject*) {
        ++(logger.is_alive ? alive : dead);
      });
      REQUIRE(PyObject_SetAttrString(local, "x", capsule) == 0);
      Py_DECREF(capsule);
      Py_DECREF(local);
    });
    REQUIRE(alive == i + 1);
  }
  REQUIRE(dead == 0);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(alive == kThreads && dead == 0);
  return 0;
}
TEST(ExitTest, FinalizersRunBeforeThreadLocalsAreDestroyed) {
  EXPECT_EQ(RunChild("FinalizersAndThreadLocals"), Clean());
}

// --- Dumps ---

SCENARIO(DumpAfterExits) {
  Start();
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> called{0};
    std::vector<std::thread> threads;
    {
      ThreadStateDetachGuard detached;
      for (int i = 0; i < 16; ++i) {
        threads.emplace_back([&] {
          CallPython(static_cast<Inside>(i % 2));
          for (++called; called < 16;) std::this_thread::yield();
        });
      }
      while (called < 16) std::this_thread::yield();
    }
    for (auto& thread : threads) thread.join();  // with the GIL
    LookAfterwards(16);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ExitTest, DumpsListNoThreadThatHasExited) {
  EXPECT_EQ(RunChild("DumpAfterExits"), Clean());
}

// --- The end of the runtime ---

// Threads that live on from runtime to runtime, and exit in a later one, with
// destructors that call Python.
SCENARIO(ExitsInALaterRuntime) {
  if (!kKeptStateMayOutliveRuntime) return 0;
  const Inside inside = static_cast<Inside>(argument);
  static pthread_key_t key;
  constexpr int kThreads = 4;
  std::promise<void> again[kThreads], exit[kThreads];
  std::promise<void> called[kThreads], called_again[kThreads];
  std::vector<std::thread> threads;
  KeyPlan plans[kThreads];
  Start();
  OnNewThread([] { CallPython(kOnlyAGuard); });
  REQUIRE(pthread_key_create(&key, CallInDestructor) == 0);
  for (int i = 0; i < kThreads; ++i) {
    plans[i] = {key, 2, inside};
    threads.emplace_back([&, i] {
      CallPython(kWithGILState);
      called[i].set_value();
      again[i].get_future().wait();
      if (i % 2 == 0) CallPython(kWithGILState);  // else only as it exits
      pthread_setspecific(key, &plans[i]);
      called_again[i].set_value();
      exit[i].get_future().wait();
    });
  }
  {
    ThreadStateDetachGuard detached;
    for (auto& c : called) c.get_future().wait();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  Start();
  for (auto& a : again) a.set_value();
  {
    ThreadStateDetachGuard detached;
    for (auto& c : called_again) c.get_future().wait();
    for (auto& e : exit) e.set_value();
    for (auto& thread : threads) thread.join();
  }
  LookAfterwards(2 + 2 * kThreads);
  OnNewThread([] { CallPython(kWithGILState); });
  LookAfterwards(1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ExitTest, ThreadsExitInALaterRuntime) {
  EXPECT_EQ(RunChild("ExitsInALaterRuntime", kOnlyAGuard), Clean());
  EXPECT_EQ(RunChild("ExitsInALaterRuntime", kWithGILState), Clean());
}

// After the end destructors are refused, and nothing is touched.
SCENARIO(ExitsAfterTheEnd) {
  static pthread_key_t key;
  static std::atomic<int> refused;
  Start();
  std::promise<void> called, ended;
  REQUIRE(pthread_key_create(&key, [](void*) {
            ThreadStateGuard guard(View());
            refused += guard.status() == PYHOLD_EFINALIZING;
          }) == 0);
  std::thread thread([&] {
    CallPython(kWithGILState);
    pthread_setspecific(key, &key);
    called.set_value();
    ended.get_future().wait();
  });
  {
    ThreadStateDetachGuard detached;
    called.get_future().wait();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  ended.set_value();
  thread.join();
  REQUIRE(refused == 1);
  return 0;
}
TEST(ExitTest, DestructorsAreRefusedAfterTheEnd) {
  EXPECT_EQ(RunChild("ExitsAfterTheEnd"), Clean());
}

// --- Subinterpreters ---

SCENARIO(SubinterpretersInDestructors) {
  Start();
  SubInterpreter sub(SubInterpreter::kShared);
  static InterpreterView* sub_view;
  sub_view = new InterpreterView(InterpreterView::Current());
  static pthread_key_t key;
  static std::atomic<int> calls;
  REQUIRE(pthread_key_create(&key, [](void*) {
            ThreadStateGuard guard(*sub_view);
            REQUIRE(guard && Eval("1 + 1") == 2);
            ThreadStateGuard main(View());
            REQUIRE(main);
            Exec("call()");
            PyGILState_STATE old = PyGILState_Ensure();
            REQUIRE(Eval("hasattr(local, 'x')") == 1);
            PyGILState_Release(old);
            ++calls;
          }) == 0);
  PyThreadState* saved = PyEval_SaveThread();
  for (int i = 0; i < 10; ++i) {
    std::thread([i] {
      if (i % 2 == 0) CallPython(kOnlyAGuard);
      pthread_setspecific(key, &key);
    }).join();
  }
  PyEval_RestoreThread(saved);
  sub.End();
  REQUIRE(calls == 10);
  LookAfterwards(15);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ExitTest, DestructorsMayGoToSubinterpreters) {
  // There PyGILState_Ensure finds the first state of the thread, which is the
  // subinterpreter's: it waits for itself, as it does without pyhold.
  if (PY_VERSION_HEX < 0x030C0000) GTEST_SKIP() << "3.11 binds it once";
  EXPECT_EQ(RunChild("SubinterpretersInDestructors"), Clean());
}

}  // namespace
