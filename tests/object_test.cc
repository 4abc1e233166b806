// References to Python objects that are given back anywhere, on real
// interpreters.
#include "tests/support/python.h"

#include <atomic>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "pyhold/object_ref.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterView;
using pyhold::ObjectRef;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;

static_assert(std::is_nothrow_copy_constructible_v<ObjectRef>);
static_assert(std::is_nothrow_move_constructible_v<ObjectRef>);
static_assert(sizeof(ObjectRef) <= 16);

// A global variable, borrowed.
PyObject* Global(const char* name) {
  PyObject* value = PyDict_GetItemString(
      PyModule_GetDict(PyImport_AddModule("__main__")), name);
  REQUIRE(value != nullptr);
  return value;
}

void DefineTracked() {
  Exec(R"(
died = 0
class Tracked:
    def __del__(self):
        global died
        died += 1
def make(): return Tracked()
)");
}

ObjectRef MakeTracked(const InterpreterView& view) {
  return ObjectRef::Steal(view, PyObject_CallNoArgs(Global("make")));
}

SCENARIO(OwnsAndGivesBack) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineTracked();
  {
    ObjectRef a = MakeTracked(view);
    REQUIRE(a && a.status() == PYHOLD_OK && a.view().id() == 0);
    ObjectRef b = a, c = std::move(a);
    REQUIRE(!a && a != b && b == c && b.get() == c.get());
    a = b;
    ObjectRef& same = a;
    a = same;
    PyObject* raw = a.NewRef();
    REQUIRE(raw == b.get());
    ObjectRef d = ObjectRef::Borrow(view, raw);
    REQUIRE(d == a);
    Py_DECREF(raw);
  }
  REQUIRE(Eval("died") == 1);

  ObjectRef empty;
  REQUIRE(!empty && empty.get() == nullptr && !empty.view());
  REQUIRE(empty == ObjectRef() && empty.NewRef() == nullptr);
  REQUIRE(empty.WithObject([](PyObject*) { REQUIRE(false); }) ==
          PYHOLD_EMISUSE);
  REQUIRE(!ObjectRef::Steal(view, nullptr));
  {
    ObjectRef refused = ObjectRef::Steal(InterpreterView(),
                                         PyObject_CallNoArgs(Global("make")));
    REQUIRE(!refused && refused.status() == PYHOLD_EMISUSE);
  }
  REQUIRE(Eval("died") == 2);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ObjectTest, OwnsAndGivesBack) {
  EXPECT_EQ(RunChild("OwnsAndGivesBack"), Clean());
}

SCENARIO(WithObject) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec("called = 0\ndef call():\n  global called\n  called += 1");
  ObjectRef function = ObjectRef::Borrow(view, Global("call"));
  {
    ThreadStateDetachGuard detached;
    std::thread([&] {
      for (int i = 0; i < 3; ++i) {
        REQUIRE(function.WithObject([&](PyObject* f) {
          REQUIRE(f == function.get());
          Py_XDECREF(PyObject_CallNoArgs(f));
        }) == PYHOLD_OK);
      }
    }).join();
  }
  REQUIRE(Eval("called") == 3);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(function.WithObject([](PyObject*) { REQUIRE(false); }) ==
          PYHOLD_EFINALIZING);
  return 0;
}
TEST(ObjectTest, WithObjectAttaches) {
  EXPECT_EQ(RunChild("WithObject"), Clean());
}

// A thread that is not attached defers; the next one that comes in gives back.
SCENARIO(DeferredToTheServiceThread) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineTracked();
  for (int round = 0; round < 20; ++round) {
    Exec("died = 0");
    ObjectRef ref = MakeTracked(view);
    // Attached all the while: the other thread waits for nobody.
    std::thread([&] { ref = ObjectRef(); }).join();
    {
      ThreadStateGuard guard(view);  // runs nobody's destructor
    }
    REQUIRE(pyhold_deferred_wait(view.raw(), 0) == PYHOLD_EMISUSE);
    {
      ThreadStateDetachGuard detached;
      REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
      REQUIRE(pyhold_deferred_count(view.raw()) == 0);
    }
    REQUIRE(Eval("died") == 1);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(ObjectTest, DeferredToTheServiceThread) {
  EXPECT_EQ(RunChild("DeferredToTheServiceThread"), Clean());
}

// Where there may be none, the next outermost ensure does it, on any thread.
SCENARIO(DeferredToTheNextEnsure) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineTracked();
  pyhold_set_service_thread(false);
  for (int way = 0; way < 3; ++way) {
    Exec("died = 0");
    ObjectRef ref = MakeTracked(view);
    // Attached elsewhere all the while: the other thread waits for nobody.
    std::thread([&] { ref = ObjectRef(); }).join();
    REQUIRE(Eval("died") == 0);
    switch (way) {
      case 0: {  // this thread, attached
        ThreadStateGuard guard(view);
        break;
      }
      case 1: {  // this one, detached
        ThreadStateDetachGuard detached(pyhold::kHolding);
        ThreadStateGuard guard(view);  // nests: not outermost
        REQUIRE(Eval("died") == 0);
        break;
      }
      case 2: {
        ThreadStateDetachGuard detached;
        std::thread([&] { ThreadStateGuard guard(view); }).join();
        break;
      }
    }
    if (way == 1) ThreadStateGuard guard(view);
    REQUIRE(Eval("died") == 1);
  }
  // Allowed again, it comes with the next piece of work.
  pyhold_set_service_thread(true);
  Exec("died = 0");
  ObjectRef ref = MakeTracked(view);
  {
    ThreadStateDetachGuard detached;
    std::thread([&] { ref = ObjectRef(); }).join();
    REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
  }
  REQUIRE(Eval("died") == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(ObjectTest, DeferredToTheNextOutermostEnsureWithoutAServiceThread) {
  EXPECT_EQ(RunChild("DeferredToTheNextEnsure"), Clean());
}

// What nobody gave back before the gate, the gate does; also while it waits.
SCENARIO(DeferredToTheGate) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(R"(
class Tracked:
    def __del__(self): print('died')
)");
  auto make = [&] {
    return ObjectRef::Steal(view, PyObject_CallNoArgs(Global("Tracked")));
  };
  ObjectRef before = make(), meanwhile = make(), after = make();
  std::thread([&] { before = ObjectRef(); }).join();
  std::promise<void> inside;
  std::thread holder([&] {
    pyhold::InterpreterRef ref = view.Hold();
    inside.set_value();
    while (pyhold::InterpreterRef::Lookup(0)) std::this_thread::yield();
    meanwhile = ObjectRef();
  });
  inside.get_future().wait();
  REQUIRE(Py_FinalizeEx() == 0);
  holder.join();
  REQUIRE(pyhold_deferred_leaked() == 0);
  after = ObjectRef();
  REQUIRE(pyhold_deferred_leaked() == 1);
  return 0;
}
TEST(ObjectTest, DeferredToTheGate) {
  ChildResult result = RunChild("DeferredToTheGate");
  EXPECT_EQ(result, Clean());
  // `after` dies, if at all, with the interpreter.
  EXPECT_EQ(result.output.substr(0, 10), "died\ndied\n") << result;
}

SCENARIO(AMillionFromEightThreads) {
  constexpr int kThreads = 8, kEach = 125000, kBatch = 12500;
  StartPython();
  InterpreterView view = InterpreterView::Current();
  PyObject* shared = PyList_New(0);
  const Py_ssize_t references = Py_REFCNT(shared);
  std::atomic<bool> stop{false};
  std::thread ensurer([&] {
    while (!stop) {
      ThreadStateGuard guard(view);
      REQUIRE(Eval("sum([1, 2, 3])") == 6);
    }
  });
  for (int round = 0; round < kEach / kBatch; ++round) {
    std::vector<std::vector<ObjectRef>> refs(kThreads);
    for (auto& mine : refs) {
      for (int i = 0; i < kBatch; ++i)
        mine.push_back(ObjectRef::Borrow(view, shared));
    }
    std::vector<std::thread> threads;
    // Attached here: who waited for the GIL would wait for this join.
    for (auto& mine : refs) threads.emplace_back([&] { mine.clear(); });
    for (auto& thread : threads) thread.join();
    REQUIRE(Eval("len('Python runs')") == 11);
  }
  stop = true;
  {
    ThreadStateDetachGuard detached;
    ensurer.join();
    REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
  }
  REQUIRE(Py_REFCNT(shared) == references);
  Py_DECREF(shared);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(ObjectTest, AMillionFromEightThreadsAreAllGivenBack) {
  EXPECT_EQ(RunChild("AMillionFromEightThreads"), Clean());
}

// Each copy is destroyed in another interpreter, or in none.
SCENARIO(AcrossInterpreters) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineTracked();
  ObjectRef ref = MakeTracked(view);
  {
    SubInterpreter sub(argument == 0 ? SubInterpreter::kShared
                                     : SubInterpreter::kOwn);
    InterpreterView sub_view = InterpreterView::Current();
    ref = ObjectRef();  // deferred: attached to another
    PyThreadState* saved = PyEval_SaveThread();
    REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
    PyEval_RestoreThread(saved);
    {
      ThreadStateGuard guard(view);
      REQUIRE(Eval("died") == 1);
    }
    Exec("class Tracked: pass");
    ref = ObjectRef::Steal(sub_view, PyObject_CallNoArgs(Global("Tracked")));
    ObjectRef copy = ref;
    std::thread([moved = std::move(copy)]() mutable {
      moved = ObjectRef();
    }).join();
    sub.End();
  }
  ref = ObjectRef();
  REQUIRE(pyhold_deferred_leaked() == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ObjectTest, AcrossInterpreters) {
  EXPECT_EQ(RunChild("AcrossInterpreters", 0), Clean());
  if (SubInterpreter::kHasOwnGil) {
    EXPECT_EQ(RunChild("AcrossInterpreters", 1), Clean());
  }
}

static ObjectRef a_static;
SCENARIO(StaticsOutliveTheRuntime) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  DefineTracked();
  a_static = MakeTracked(view);
  thread_local ObjectRef of_this_thread;
  of_this_thread = MakeTracked(view);
  std::promise<void> made, over;
  std::thread other([&] {
    thread_local ObjectRef of_another;
    {
      ThreadStateGuard guard(view);
      of_another = MakeTracked(view);
    }
    made.set_value();
    over.get_future().wait();
  });
  {
    ThreadStateDetachGuard detached;
    made.get_future().wait();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  over.set_value();
  other.join();
  REQUIRE(pyhold_deferred_leaked() == 1);
  StartPython();  // the main interpreter has the same address, and another life
  REQUIRE(InterpreterView::Current());
  of_this_thread = ObjectRef();
  REQUIRE(pyhold_deferred_leaked() == 2);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ObjectTest, StaticsAndThreadLocalsMayOutliveTheRuntime) {
  EXPECT_EQ(RunChild("StaticsOutliveTheRuntime"), Clean());
}

#ifdef Py_REF_DEBUG
// A debug build counts all references that there are.
SCENARIO(TotalOfReferences) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec("import sys\nclass Thing: pass");
  auto round = [&] {
    std::vector<ObjectRef> refs;
    for (int i = 0; i < 1000; ++i) {
      refs.push_back(
          ObjectRef::Steal(view, PyObject_CallNoArgs(Global("Thing"))));
      refs.push_back(refs.back());
    }
    std::thread([&] { refs.clear(); }).join();
    ThreadStateDetachGuard detached;
    REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
  };
  for (int i = 0; i < 3; ++i) round();
  long before = Eval("sys.gettotalrefcount()");
  for (int i = 0; i < 10; ++i) round();
  long after = Eval("sys.gettotalrefcount()");
  printf("%ld, then %ld references\n", before, after);
  REQUIRE(after - before < 100 && before - after < 100);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ObjectTest, TotalOfReferencesComesOutEven) {
  EXPECT_EQ(RunChild("TotalOfReferences"), Clean());
}
#endif

}  // namespace
