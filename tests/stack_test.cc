// Guards on any stack, on real interpreters: fibers, coroutines and greenlets
// that switch inside of guards.
#include "tests/support/python.h"

#include <signal.h>
#include <ucontext.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#if __has_include(<coroutine>) && __cplusplus >= 202002L
#include <coroutine>
#define HAS_COROUTINES 1
#endif

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/pep788.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterView;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;
using testing::HasSubstr;

// A function with a stack of its own.
class Fiber {
 public:
  explicit Fiber(std::function<void()> fn)
      : fn_(std::move(fn)), stack_(new char[kStackBytes]) {
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack_.get();
    own_.uc_stack.ss_size = kStackBytes;
    makecontext(&own_, &Start, 0);
  }
  Fiber(Fiber&&) = delete;

  // Runs it until it yields or ends, on the calling thread.
  void Resume() {
    ucontext_t here;
    caller_ = &here;
    Running() = this;
    swapcontext(&here, &own_);
  }

  static void Yield() {
    Fiber* self = Running();
    swapcontext(&self->own_, self->caller_);
  }

  bool ended() const { return ended_; }

 private:
  static constexpr std::size_t kStackBytes = 1 << 20;

  // Not inline: a fiber may go on on another thread.
  __attribute__((noinline)) static Fiber*& Running() {
    static thread_local Fiber* running;
    return running;
  }

  static void Start() {
    Running()->fn_();
    Running()->ended_ = true;
    Yield();
  }

  std::function<void()> fn_;
  std::unique_ptr<char[]> stack_;
  ucontext_t own_;
  ucontext_t* caller_;
  bool ended_ = false;
};

// Resumes fibers, each in turn by chance, until all have ended.
void RunInAnyOrder(unsigned seed, int count,
                   const std::function<void(int)>& fn) {
  std::vector<std::unique_ptr<Fiber>> fibers;
  for (int i = 0; i < count; ++i)
    fibers.push_back(std::make_unique<Fiber>([&fn, i] { fn(i); }));
  std::minstd_rand random(seed);
  while (!fibers.empty()) {
    std::size_t i = random() % fibers.size();
    fibers[i]->Resume();
    if (fibers[i]->ended())
      fibers.erase(fibers.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

constexpr int kRounds = 50, kFibers = 5;

long Sum() { return Eval("sum(range(10))"); }

// How many use the attached state: what PyGILState and all copies of pyhold count
// in comes out even, in whatever order guards are left.
int Users() { return Attached()->gilstate_counter; }

// Requires: nobody is in a guard on this thread. Inside of a first one.
int UsersInAGuard(const InterpreterView& view) {
  ThreadStateGuard guard(view);
  REQUIRE(guard && Sum() == 45);
  return Users();
}

// In both ways.
void Detach(std::optional<ThreadStateDetachGuard>* detached, int way) {
  if (way % 2 == 0)
    detached->emplace();
  else
    detached->emplace(pyhold::kHolding);
  REQUIRE(**detached);
}

// Fibers that are detached whenever they switch: guards end in any order.
void CallDetached(const InterpreterView& view, int depth) {
  ThreadStateGuard guard(view);
  REQUIRE(guard && Attached()->interp != nullptr && Sum() == 45);
  PyThreadState* state = Attached();
  {
    std::optional<ThreadStateDetachGuard> detached;
    Detach(&detached, depth);
    Fiber::Yield();
    if (depth > 0) CallDetached(view, depth - 1);
    Fiber::Yield();
  }
  REQUIRE(Attached() == state && Sum() == 45);
}

// argument: 0: a native thread; 1: the main thread.
SCENARIO(DetachedWhileTheySwitch) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  auto run = [&] {
    const int users = UsersInAGuard(view);
    for (unsigned round = 0; round < kRounds; ++round) {
      RunInAnyOrder(round, kFibers, [&](int i) {
        for (int call = 0; call < 3; ++call) {
          CallDetached(view, i % 3);
          Fiber::Yield();
        }
      });
      REQUIRE(!view.IsAttached() && UsersInAGuard(view) == users);
    }
  };
  PyThreadState* main_state = PyEval_SaveThread();
  if (argument == 0) {
    std::thread(run).join();
  } else {
    run();
  }
  PyEval_RestoreThread(main_state);
  REQUIRE(Attached() == main_state && Sum() == 45);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(StackTest, FibersMaySwitchDetachedInGuards) {
  EXPECT_EQ(RunChild("DetachedWhileTheySwitch", 0), Clean());
  EXPECT_EQ(RunChild("DetachedWhileTheySwitch", 1), Clean());
}

// What a binding does: let go, work, take it again to call back; and the callback
// switches. All on a Python thread, which is attached whenever fibers switch.
void Binding(const InterpreterView& view, int depth) {
  PyThreadState* state = Attached();
  {
    std::optional<ThreadStateDetachGuard> detached;
    Detach(&detached, depth);
    REQUIRE(!view.IsAttached());
    ThreadStateGuard guard(view);
    REQUIRE(guard && Attached() == state);
    Fiber::Yield();
    REQUIRE(Attached() == state && Sum() == 45);
    if (depth > 0) Binding(view, depth - 1);
    Fiber::Yield();
  }
  REQUIRE(Attached() == state && Sum() == 45);
}

void NestedGuards(const InterpreterView& view, int depth) {
  PyThreadState* state = Attached();
  {
    ThreadStateGuard guard(view);
    REQUIRE(guard && Attached() == state);
    Fiber::Yield();
    if (depth > 0) NestedGuards(view, depth - 1);
    REQUIRE(Sum() == 45);
    Fiber::Yield();
  }
  REQUIRE(Attached() == state && Sum() == 45);
}

// The C pair counts; so it does not matter whose ensure a release undoes.
void BindingInC(const InterpreterView& view, int depth) {
  PyThreadState* state = Attached();
  PyThreadState* saved = PyEval_SaveThread();
  REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
  REQUIRE(Attached() == state);
  Fiber::Yield();
  REQUIRE(Attached() == state && Sum() == 45);
  if (depth > 0) BindingInC(view, depth - 1);
  Fiber::Yield();
  pyhold_thread_release();
  PyEval_RestoreThread(saved);
  REQUIRE(Attached() == state && Sum() == 45);
}

void NestedInC(const InterpreterView& view, int depth) {
  PyThreadState* state = Attached();
  REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
  Fiber::Yield();
  if (depth > 0) NestedInC(view, depth - 1);
  Fiber::Yield();
  pyhold_thread_release();
  REQUIRE(Attached() == state && Sum() == 45);
}

PyInterpreterView* the_view;

void BindingWithTokens(const InterpreterView& view, int depth) {
  PyThreadState* state = Attached();
  PyThreadState* saved = PyEval_SaveThread();
  PyInterpreterGuard* guard = nullptr;
  PyThreadStateToken* token;
  if (depth % 2 == 0) {  // leans on a guard
    guard = PyInterpreterGuard_FromView(the_view);
    REQUIRE(guard != nullptr);
    token = PyThreadState_Ensure(guard);
  } else {
    token = PyThreadState_EnsureFromView(the_view);
  }
  REQUIRE(token != nullptr && Attached() == state);
  Fiber::Yield();
  REQUIRE(Attached() == state && Sum() == 45);
  if (depth > 0) BindingWithTokens(view, depth - 1);
  Fiber::Yield();
  PyThreadState_Release(token);
  if (guard != nullptr) PyInterpreterGuard_Close(guard);
  PyEval_RestoreThread(saved);
  REQUIRE(Attached() == state && Sum() == 45);
}

constexpr std::array<void (*)(const InterpreterView&, int), 5> kCalls = {
    Binding, NestedGuards, BindingInC, NestedInC, BindingWithTokens};

InterpreterView current_view;
int current_call;

PyObject* RunFibers(PyObject*, PyObject*) {
  const int users = Users();
  for (unsigned round = 0; round < kRounds; ++round) {
    RunInAnyOrder(round, kFibers, [](int i) {
      for (int call = 0; call < 3; ++call) {
        std::size_t which = static_cast<std::size_t>(current_call);
        // The last way: all of them at once, but for the C pair: a release
        // undoes the thread's newest ensure, which should be of its own kind.
        static constexpr std::size_t kMixed[] = {0, 1, 4};
        if (which == kCalls.size())
          which = kMixed[static_cast<std::size_t>(i + call) % 3];
        kCalls[which](current_view, i % 3);
        Fiber::Yield();
      }
    });
    REQUIRE(Users() == users);
  }
  Py_RETURN_NONE;
}

SCENARIO(PythonThread) {
  static PyMethodDef method = {"run_fibers", RunFibers, METH_NOARGS, ""};
  StartPython();
  current_view = InterpreterView::Current();
  current_call = argument;
  the_view = PyInterpreterView_FromCurrent();
  REQUIRE(the_view != nullptr);
  PyObject* function = PyCFunction_New(&method, nullptr);
  PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")),
                       "run_fibers", function);
  Py_DECREF(function);
  Exec("run_fibers()");
  Exec(
      "import threading\n"
      "thread = threading.Thread(target=run_fibers)\n"
      "thread.start()\n"
      "thread.join()\n");
  PyInterpreterView_Close(the_view);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(StackTest, FibersOfAPythonThreadMaySwitchInGuards) {
  for (int call = 0; call <= static_cast<int>(kCalls.size()); ++call)
    EXPECT_EQ(RunChild("PythonThread", call), Clean()) << call;
}

// On a native thread a guard attaches what was not attached: fibers that stay
// attached when they switch leave their guards in the opposite order, or else do
// not call Python after the first has left.
SCENARIO(AttachedWhileTheySwitch) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  PyThreadState* main_state = PyEval_SaveThread();
  std::thread([&] {
    const int users = UsersInAGuard(view);
    for (int round = 0; round < kRounds; ++round) {
      bool call = true;
      auto body = [&] {
        ThreadStateGuard guard(view);
        REQUIRE(guard && Sum() == 45);
        Fiber::Yield();
        if (call) REQUIRE(Sum() == 45);
      };
      {
        Fiber a(body), b(body);
        a.Resume();
        b.Resume();
        b.Resume();
        REQUIRE(view.IsAttached());
        a.Resume();
        REQUIRE(a.ended() && b.ended() && !view.IsAttached());
      }
      {
        Fiber a(body), b(body), c(body);
        a.Resume();
        b.Resume();
        a.Resume();  // attached it, and so detaches it
        REQUIRE(a.ended() && !view.IsAttached());
        c.Resume();  // attaches it again
        call = false;
        b.Resume();
        REQUIRE(view.IsAttached());
        c.Resume();
        REQUIRE(b.ended() && c.ended() && !view.IsAttached());
      }
      REQUIRE(UsersInAGuard(view) == users);
    }
  }).join();
  PyEval_RestoreThread(main_state);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(StackTest, GuardThatAttachedDetachesInWhateverOrderItIsLeft) {
  EXPECT_EQ(RunChild("AttachedWhileTheySwitch"), Clean());
}

// The guard that attached is left first, and the other goes on: what that left in
// the state lasts until it is left, too. argument: the policy of the view.
SCENARIO(ValuesLast) {
  StartPython();
  InterpreterView view =
      InterpreterView::Current().With(static_cast<pyhold_keep>(argument));
  Exec("import threading\nlocal = threading.local()");
  PyThreadState* main_state = PyEval_SaveThread();
  std::thread([&] {
    for (int round = 0; round < 3; ++round) {
      PyThreadState* state = nullptr;
      Fiber a([&] {
        ThreadStateGuard guard(view);
        REQUIRE(Eval("hasattr(local, 'value')") == 0);
        Fiber::Yield();
      });
      Fiber b([&] {
        ThreadStateGuard guard(view);
        state = Attached();
        Exec("local.value = 7");
        Fiber::Yield();
        REQUIRE(!view.IsAttached());
        ThreadStateGuard again(view);
        REQUIRE(Attached() == state && Eval("local.value") == 7);
      });
      for (Fiber* fiber : {&a, &b, &a, &b}) fiber->Resume();
      REQUIRE(a.ended() && b.ended() && !view.IsAttached());
    }
  }).join();
  PyEval_RestoreThread(main_state);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(StackTest, ValuesLastUntilTheLastFiberHasLeft) {
  EXPECT_EQ(RunChild("ValuesLast", PYHOLD_KEEP), Clean());
  EXPECT_EQ(RunChild("ValuesLast", PYHOLD_PER_CALL), Clean());
}

// --- Two interpreters ---

// Ends `sub`, whose state this thread has saved.
void EndDetached(SubInterpreter* sub, PyThreadState* state) {
  PyEval_RestoreThread(state);
  REQUIRE(CountStates() == 1);  // no fiber left one
  sub->End();
}

// argument & 1: an own GIL; & 2: on a native thread.
SCENARIO(TwoInterpreters) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  SubInterpreter sub(argument & 1 ? SubInterpreter::kOwn
                                  : SubInterpreter::kShared);
  InterpreterView sub_view = InterpreterView::Current();
  PyInterpreterState* interps[] = {sub.before()->interp, sub.interp()};
  const InterpreterView* views[] = {&view, &sub_view};
  PyThreadState* sub_state = PyEval_SaveThread();
  auto in_order = [&] {
    auto body = [&](int i) {
      ThreadStateGuard guard(*views[i]);
      REQUIRE(guard && Attached()->interp == interps[i] && Sum() == 45);
      Fiber::Yield();
      REQUIRE(Attached()->interp == interps[i] && Sum() == 45);
    };
    Fiber a([&] { body(0); }), b([&] { body(1); }), c([&] { body(0); });
    for (Fiber* fiber : {&a, &b, &c, &c, &b, &a}) fiber->Resume();
    REQUIRE(a.ended() && b.ended() && c.ended());
    REQUIRE(!view.IsAttached() && !sub_view.IsAttached());
  };
  auto detached = [&] {  // in any order
    const int users = UsersInAGuard(view);
    for (unsigned round = 0; round < kRounds; ++round) {
      RunInAnyOrder(round, kFibers, [&](int i) {
        CallDetached(*views[i % 2], i % 3);
        CallDetached(*views[(i + 1) % 2], i % 3);
      });
      REQUIRE(UsersInAGuard(view) == users);
    }
    REQUIRE(!view.IsAttached() && !sub_view.IsAttached());
  };
  auto both = [&] {
    in_order();
    detached();
    in_order();
  };
  if (argument & 2)
    std::thread(both).join();
  else
    both();
  EndDetached(&sub, sub_state);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(StackTest, FibersOfOneThreadMayBeInTwoInterpreters) {
  for (int way : {0, 1, 2, 3}) {
    if ((way & 1) && !SubInterpreter::kHasOwnGil) continue;
    EXPECT_EQ(RunChild("TwoInterpreters", way), Clean()) << way;
  }
}

// What `outer` attached is not attached when it is left: going on would bring
// back the wrong state. argument: 0: fiber `inner` is in a guard of another
// interpreter; 1: in a detach guard of this one.
SCENARIO(WrongOrder) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  SubInterpreter sub(SubInterpreter::kShared);
  InterpreterView sub_view = InterpreterView::Current();
  PyEval_SaveThread();
  std::thread([&] {
    pthread_setname_np(pthread_self(), "some-worker");
    Fiber outer([&] {
      ThreadStateGuard guard(view, "the outer guard", 17);
      REQUIRE(guard);
      Fiber::Yield();
    });
    Fiber inner([&] {
      if (argument == 0) {
        ThreadStateGuard guard(sub_view, "the inner guard", 29);
        REQUIRE(guard);
        Fiber::Yield();
      } else {
        ThreadStateDetachGuard detached("the inner guard", 29);
        REQUIRE(detached);
        Fiber::Yield();
      }
    });
    outer.Resume();
    inner.Resume();
    outer.Resume();
  }).join();
  return 0;
}
TEST(StackTest, WrongOrderIsFatalAndNamed) {
  for (int way : {0, 1}) {
    ChildResult result = RunChild("WrongOrder", way);
    EXPECT_EQ(result.signal, SIGABRT) << result;
    EXPECT_THAT(result.output, HasSubstr("pyhold: fatal: "));
    EXPECT_THAT(result.output, HasSubstr("the guard: the outer guard:17"));
    EXPECT_THAT(result.output,
                HasSubstr("guard of this thread: the inner guard:29"));
    EXPECT_THAT(result.output, HasSubstr("\"some-worker\""));
  }
}

// argument: 0: a guard; 1: one that set the state of another interpreter aside; 2:
// one that another nests in.
SCENARIO(NeverLeft) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  SubInterpreter sub(SubInterpreter::kShared);
  InterpreterView sub_view = InterpreterView::Current();
  PyEval_SaveThread();
  std::thread([&] {
    pthread_setname_np(pthread_self(), "some-worker");
    new ThreadStateGuard(view, "the outer guard", 17);
    if (argument == 1) new ThreadStateGuard(sub_view, "the inner guard", 29);
    if (argument == 2) new ThreadStateGuard(view, "the inner guard", 29);
  }).join();
  return 0;
}
TEST(StackTest, GuardThatAnExitingThreadNeverLeftIsFatalAndNamed) {
  for (int way : {0, 1, 2}) {
    ChildResult result = RunChild("NeverLeft", way);
    EXPECT_EQ(result.signal, SIGABRT) << result;
    EXPECT_THAT(result.output, HasSubstr("never released"));
    EXPECT_THAT(result.output, HasSubstr("the outer guard:17"));
    if (way == 1) {
      EXPECT_THAT(result.output, HasSubstr("the inner guard:29"));
    }
    EXPECT_THAT(result.output, HasSubstr("\"some-worker\""));
  }
}

// --- Another thread ---

SCENARIO(AnotherThread) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  the_view = PyInterpreterView_FromCurrent();
  const char* file = "this guard";
  Fiber fiber([&] {
    switch (argument) {
      case 0: {
        ThreadStateGuard guard(view, file, 23);
        Fiber::Yield();
        break;
      }
      case 1: {
        ThreadStateGuard outer(view, file, 23), inner(view);
        Fiber::Yield();
        break;
      }
      case 2: {
        ThreadStateDetachGuard detached(file, 23);
        Fiber::Yield();
        break;
      }
      case 3: {
        REQUIRE(pyhold_thread_ensure_view(view.raw()) == PYHOLD_OK);
        Fiber::Yield();
        pyhold_thread_release();
        break;
      }
      case 4: {
        PyThreadStateToken* token = PyThreadState_EnsureFromView(the_view);
        REQUIRE(token != nullptr);
        Fiber::Yield();
        PyThreadState_Release(token);
        break;
      }
    }
  });
  // A native thread has the guard; or the main one, where it detaches.
  std::thread other([&] {
    if (argument != 2) fiber.Resume();
    std::thread([&] {
      if (argument == 2) return;
      pthread_setname_np(pthread_self(), "wrong-thread");
      fiber.Resume();
      REQUIRE(false);
    }).join();
  });
  if (argument == 2) {
    other.join();
    fiber.Resume();
    std::thread([&] {
      pthread_setname_np(pthread_self(), "wrong-thread");
      fiber.Resume();
    }).join();
  } else {
    PyEval_SaveThread();
    other.join();
  }
  return 0;
}
TEST(StackTest, GuardLeftOnAnotherThreadIsFatalAndNamed) {
  for (int way = 0; way <= 4; ++way) {
    ChildResult result = RunChild("AnotherThread", way);
    EXPECT_EQ(result.signal, SIGABRT) << way << ": " << result;
    EXPECT_THAT(result.output, HasSubstr("\"wrong-thread\""));
    EXPECT_THAT(result.output,
                HasSubstr(way == 3 ? "without an ensure to undo"
                                   : "on another thread than its own"));
    if (way <= 2) {
      EXPECT_THAT(result.output, HasSubstr("this guard:23"));
    }
  }
}

// --- Coroutines ---

#ifdef HAS_COROUTINES
class Coroutine {
 public:
  struct promise_type {
    Coroutine get_return_object() {
      return Coroutine(
          std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { abort(); }
  };
  explicit Coroutine(std::coroutine_handle<promise_type> handle)
      : handle_(handle) {}
  Coroutine(Coroutine&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)) {}
  ~Coroutine() {
    if (handle_ != nullptr) handle_.destroy();
  }
  void Resume() { handle_.resume(); }
  bool ended() const { return handle_.done(); }

 private:
  std::coroutine_handle<promise_type> handle_;
};

Coroutine Calls(const InterpreterView& view, int count) {
  for (int i = 0; i < count; ++i) {
    ThreadStateGuard guard(view);
    REQUIRE(guard && Sum() == 45);
    {
      ThreadStateDetachGuard detached;
      REQUIRE(detached);
      co_await std::suspend_always();
    }
    REQUIRE(Sum() == 45);
  }
}

Coroutine OneGuard(const InterpreterView& view) {
  ThreadStateGuard guard(view, "a coroutine's guard", 5);
  co_await std::suspend_always();
}

// argument: 1: one is resumed, and one destroyed, on another thread.
SCENARIO(Coroutines) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  PyThreadState* main_state = PyEval_SaveThread();
  if (argument > 0) {
    std::optional<Coroutine> one(OneGuard(view));
    one->Resume();
    std::thread([&] {
      if (argument == 1)
        one->Resume();
      else
        one.reset();
    }).join();
    return 0;
  }
  std::thread([&] {
    std::minstd_rand random(1);
    for (int round = 0; round < kRounds; ++round) {
      std::vector<Coroutine> some;
      for (int i = 0; i < kFibers; ++i) some.push_back(Calls(view, i));
      for (int ended = 0; ended < kFibers;) {
        Coroutine& next = some[random() % kFibers];
        if (next.ended()) continue;
        next.Resume();
        if (next.ended()) ++ended;
      }
    }
    {  // destroyed while it is suspended in a guard
      Coroutine one = OneGuard(view);
      one.Resume();
      REQUIRE(view.IsAttached());
    }
    REQUIRE(!view.IsAttached());
  }).join();
  PyEval_RestoreThread(main_state);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(StackTest, CoroutinesMayBeSuspendedInGuardsOnTheirThread) {
  EXPECT_EQ(RunChild("Coroutines", 0), Clean());
  for (int way : {1, 2}) {
    ChildResult result = RunChild("Coroutines", way);
    EXPECT_EQ(result.signal, SIGABRT) << result;
    EXPECT_THAT(result.output, HasSubstr("on another thread than its own"));
    EXPECT_THAT(result.output, HasSubstr("a coroutine's guard:5"));
  }
}
#endif

// --- Greenlets, which move the stack itself ---

// What a native function of a binding does around `callback`, in several ways.
PyObject* CallBack(PyObject*, PyObject* args) {
  int way;
  PyObject* callback;
  PyObject* result = nullptr;
  if (!PyArg_ParseTuple(args, "iO", &way, &callback)) return nullptr;
  switch (way) {
    case 0: {
      ThreadStateDetachGuard detached;
      REQUIRE(detached);
      ThreadStateGuard guard(current_view);
      REQUIRE(guard);
      result = PyObject_CallNoArgs(callback);
      break;
    }
    case 1: {
      ThreadStateGuard guard(current_view), nested(current_view);
      REQUIRE(nested);
      result = PyObject_CallNoArgs(callback);
      break;
    }
    case 2: {
      Py_BEGIN_ALLOW_THREADS;
      REQUIRE(pyhold_thread_ensure_view(current_view.raw()) == PYHOLD_OK);
      result = PyObject_CallNoArgs(callback);
      pyhold_thread_release();
      Py_END_ALLOW_THREADS;
      break;
    }
    case 3: {
      Py_BEGIN_ALLOW_THREADS;
      PyThreadStateToken* token = PyThreadState_EnsureFromView(the_view);
      REQUIRE(token != nullptr);
      result = PyObject_CallNoArgs(callback);
      PyThreadState_Release(token);
      Py_END_ALLOW_THREADS;
      break;
    }
    case 4: {  // beside PyGILState
      ThreadStateDetachGuard detached;
      REQUIRE(detached);
      PyGILState_STATE state = PyGILState_Ensure();
      {
        ThreadStateGuard guard(current_view);
        REQUIRE(guard);
        result = PyObject_CallNoArgs(callback);
      }
      PyGILState_Release(state);
      break;
    }
  }
  return result;
}

SCENARIO(Greenlets) {
  static PyMethodDef method = {"call_back", CallBack, METH_VARARGS, ""};
  StartPython();
  PyObject* greenlet = PyImport_ImportModule("greenlet");
  if (greenlet == nullptr) return 77;
  Py_DECREF(greenlet);
  current_view = InterpreterView::Current();
  the_view = PyInterpreterView_FromCurrent();
  PyObject* function = PyCFunction_New(&method, nullptr);
  PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")),
                       "call_back", function);
  Py_DECREF(function);
  Exec(
      "import functools, greenlet, random, threading\n"
      "def run(ways, seed):\n"
      "    chance = random.Random(seed)\n"
      "    hub = greenlet.getcurrent()\n"
      "    results = []\n"
      "    def fetch(number):\n"
      "        hub.switch()\n"
      "        return number\n"
      "    def nested(number, depth):\n"
      "        if depth == 0: return fetch(number)\n"
      "        way = ways[(number + depth) % len(ways)]\n"
      "        got = call_back(way, lambda: nested(number, depth - 1))\n"
      "        hub.switch()\n"
      "        return got + 1\n"
      "    def work(number):\n"
      "        for i in range(4):\n"
      "            results.append(nested(100 * number, 1 + i % 3))\n"
      "    running = [greenlet.greenlet(functools.partial(work, n))\n"
      "               for n in range(6)]\n"
      "    while running:\n"
      "        chance.choice(running).switch()\n"
      "        running = [g for g in running if not g.dead]\n"
      "    expected = [100 * n + 1 + i % 3 for n in range(6) for i in "
      "range(4)]\n"
      "    assert sorted(results) == sorted(expected), results\n"
      "    passed.append(seed)\n"
      "passed = []\n");
  Exec(("ways = " + (argument < 5 ? "[" + std::to_string(argument) + "]"
                                  : std::string("[0, 1, 4]")))
           .c_str());
  Exec(
      "for seed in range(10): run(ways, seed)\n"
      "threads = [threading.Thread(target=run, args=(ways, seed))\n"
      "           for seed in range(10, 14)]\n"
      "for t in threads: t.start()\n"
      "for t in threads: t.join()\n"
      "assert len(passed) == 14, passed\n");
  PyInterpreterView_Close(the_view);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(StackTest, GreenletsMaySwitchInGuards) {
  for (int way = 0; way <= 5; ++way) {
    ChildResult result = RunChild("Greenlets", way);
    if (result.exit_code == 77) GTEST_SKIP() << "no greenlet here";
    EXPECT_EQ(result, Clean()) << way;
  }
}

}  // namespace
