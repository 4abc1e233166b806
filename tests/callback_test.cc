// PyCallback on real interpreters, with three ways to hear of failures: Abseil's
// statuses, an expected-like type and C++ exceptions.
#include "tests/support/python.h"
// First because of Python.h; then what is tested.
#include "pyhold/py_callback.h"

#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "examples/status_types.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/absl_status.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::InterpreterView;
using pyhold::PyCallback;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;
using testing::HasSubstr;

using Twice = PyCallback<absl::StatusOr<long>(long)>;
static_assert(std::is_copy_constructible_v<Twice>);
static_assert(std::is_nothrow_move_constructible_v<Twice>);
// A value cannot be made without `convert`.
static_assert(!std::is_constructible_v<Twice, InterpreterView, PyObject*,
                                       PyObject* (*)(PyObject*, long)>);

// Borrowed, from __main__.
PyObject* Named(const char* name) {
  return PyDict_GetItemString(PyModule_GetDict(PyImport_AddModule("__main__")),
                              name);
}

PyObject* CallWithLong(PyObject* callable, long x) {
  return PyObject_CallFunction(callable, "l", x);
}

long ToLong(PyObject* result) { return PyLong_AsLong(result); }

template <typename R, typename S = void>
PyCallback<R(long), S> Callback(const char* name) {
  return PyCallback<R(long), S>(InterpreterView::Current(), Named(name),
                                CallWithLong, ToLong);
}

Twice MakeTwice() {
  Exec("def twice(x): return 2 * x");
  return Callback<absl::StatusOr<long>>("twice");
}

bool Contains(absl::string_view text, const std::string& part) {
  return std::string(text).find(part) != std::string::npos;
}

bool IsRefusal(const absl::Status& status) {
  return status.code() == absl::StatusCode::kCancelled &&
         Contains(status.message(), "PYHOLD_EFINALIZING");
}

void OnNewThread(const std::function<void()>& fn) {
  ThreadStateDetachGuard detached;
  REQUIRE(detached);
  std::thread(fn).join();
}

SCENARIO(EightThreads) {
  constexpr int kThreads = 8, kCalls = 500;
  StartPython();
  Twice twice = MakeTwice();
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&done, twice, t] {
      for (long i = 0; i < kCalls; ++i) {
        absl::StatusOr<long> result = twice(1000 * t + i);
        REQUIRE(result.ok() && *result == 2 * (1000 * t + i));
      }
      ++done;
    });
  }
  while (done < kThreads) {
    REQUIRE(Eval("sum(range(100))") == 4950);
    absl::StatusOr<long> result = twice(5);  // nested
    REQUIRE(result.ok() && *result == 10);
  }
  {
    ThreadStateDetachGuard detached;
    for (auto& thread : threads) thread.join();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(CallbackTest, NativeThreadsCallWhilePythonRuns) {
  EXPECT_EQ(RunChild("EightThreads"), Clean());
}

SCENARIO(RefusedThreads) {
  StartPython();
  std::atomic<int> refused{0};
  std::atomic<long> calls{0};
  std::vector<std::thread> threads;
  {
    Twice twice = MakeTwice();
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, twice]() mutable {
        for (;;) {
          Twice copy = twice;
          absl::StatusOr<long> result = copy(21);
          if (!result.ok()) {
            REQUIRE(IsRefusal(result.status()));
            break;
          }
          REQUIRE(*result == 42);
          ++calls;
        }
        ++refused;
      });
    }
  }
  {
    ThreadStateDetachGuard detached;
    while (calls < 100) std::this_thread::yield();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  for (auto& thread : threads) thread.join();
  REQUIRE(refused == 8);
  return 0;
}
TEST(CallbackTest, ThreadsThatStillCallWhenPythonEndsAreRefused) {
  for (int i = 0; i < 10; ++i) EXPECT_EQ(RunChild("RefusedThreads"), Clean());
}

SCENARIO(OutlivesInterpreter) {
  StartPython();
  auto twice = std::make_unique<Twice>(MakeTwice());
  Twice copy = *twice;
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(IsRefusal((*twice)(1).status()));
  std::thread([&] {
    Twice another = *twice;
    REQUIRE(IsRefusal(another(1).status()));
    twice.reset();
    REQUIRE(IsRefusal(copy(1).status()));
  }).join();

  // A new interpreter has the old one's number, and nothing to do with it.
  if (kKeptStateMayOutliveRuntime) {
    StartPython();
    REQUIRE(IsRefusal(copy(1).status()));
    REQUIRE(*MakeTwice()(4) == 8);
    copy = MakeTwice();
    REQUIRE(*copy(4) == 8);
    REQUIRE(Py_FinalizeEx() == 0);
  }
  REQUIRE(IsRefusal(copy(1).status()));
  return 0;
}
TEST(CallbackTest, CopiesOutliveTheInterpreterAndAreCancelled) {
  EXPECT_EQ(RunChild("OutlivesInterpreter"), Clean());
}

SCENARIO(Raises) {
  StartPython();
  Exec(R"(
def fails(x):
    raise FileNotFoundError(f'no file {x}')
)");
  auto fails = Callback<absl::StatusOr<long>>("fails");
  absl::Status status;
  OnNewThread([&] { status = fails(7).status(); });
  REQUIRE(status.code() == absl::StatusCode::kNotFound);
  REQUIRE(Contains(status.message(), "FileNotFoundError: no file 7"));
  REQUIRE(PyErr_Occurred() == nullptr);
  REQUIRE(pyhold::RestorePyError(status) == PYHOLD_OK);
  REQUIRE(PyErr_ExceptionMatches(PyExc_FileNotFoundError));
  PyErr_Clear();

  // The caller's own error is not touched.
  PyErr_SetString(PyExc_KeyError, "mine");
  REQUIRE(!fails(8).ok());
  REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
  PyErr_Clear();
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(Contains(status.message(), "FileNotFoundError: no file 7"));
  return 0;
}
TEST(CallbackTest, CallableThatRaisesGivesTypeAndTextAndTheExceptionItself) {
  EXPECT_EQ(RunChild("Raises"), Clean());
}

SCENARIO(BadResults) {
  StartPython();
  const InterpreterView view = InterpreterView::Current();
  Exec("def text(x): return 'text'\ndef huge(x): return 1 << 100");
  absl::Status status = Callback<absl::StatusOr<long>>("text")(1).status();
  REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(Contains(status.message(), "TypeError: "));
  status = Callback<absl::StatusOr<long>>("huge")(1).status();
  REQUIRE(status.code() == absl::StatusCode::kOutOfRange);

  // `convert` may give a status of its own, and need not give a value.
  auto calls_text = [&](auto convert) {
    return PyCallback<absl::StatusOr<std::unique_ptr<int>>(long)>(
        view, Named("text"), CallWithLong, convert)(1);
  };
  using Pointer = absl::StatusOr<std::unique_ptr<int>>;
  REQUIRE(calls_text([](PyObject*) -> Pointer {
            return absl::DataLossError("mine");
          }).status() == absl::DataLossError("mine"));
  REQUIRE(**calls_text([](PyObject*) -> Pointer {
    return std::make_unique<int>(3);
  }) == 3);

  // An `invoke` that breaks its contract.
  PyCallback<absl::Status()> forgets(view, Named("text"), [](PyObject*) {
    return static_cast<PyObject*>(nullptr);
  });
  REQUIRE(Contains(forgets().message(), "SystemError: "));
  PyCallback<absl::Status()> both(
      view, Named("text"),
      [](PyObject* f) {
        PyErr_SetString(PyExc_KeyError, "left");
        return Py_NewRef(f);
      },
      [](PyObject*) -> absl::Status {
        REQUIRE(!"there is a result");
        return absl::OkStatus();
      });
  REQUIRE(Contains(both().message(), "KeyError: 'left'"));
  REQUIRE(PyErr_Occurred() == nullptr);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(CallbackTest, ResultsThatCannotBeConvertedGiveAStatus) {
  EXPECT_EQ(RunChild("BadResults"), Clean());
}

SCENARIO(VoidResults) {
  StartPython();
  Exec(R"(
import weakref
class Result: pass
results = []
def makes(x):
    result = Result()
    results.append(weakref.ref(result))
    return result
)");
  PyCallback<absl::Status(long)> makes(InterpreterView::Current(),
                                       Named("makes"), CallWithLong);
  OnNewThread([&] {
    for (long i = 0; i < 3; ++i) REQUIRE(makes(i).ok());
  });
  REQUIRE(Eval("len(results)") == 3);
  REQUIRE(Eval("all(result() is None for result in results)") == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(CallbackTest, ResultsOfCallbacksWithoutAValueAreDropped) {
  EXPECT_EQ(RunChild("VoidResults"), Clean());
}

SCENARIO(MoveOnlyArguments) {
  StartPython();
  Exec("got = []\ndef take(x): got.append(x)");
  PyCallback<absl::Status(std::unique_ptr<long>, const std::string&)> take(
      InterpreterView::Current(), Named("take"),
      [](PyObject* f, std::unique_ptr<long> x, const std::string& text) {
        return PyObject_CallFunction(f, "((ls))", *x, text.c_str());
      });
  OnNewThread([&] { REQUIRE(take(std::make_unique<long>(4), "four").ok()); });
  REQUIRE(Eval("got == [(4, 'four')]") == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  auto left = std::make_unique<long>(5);
  REQUIRE(!take(std::move(left), "").ok());
  return 0;
}
TEST(CallbackTest, ArgumentsMayBeMoveOnlyAndReferences) {
  EXPECT_EQ(RunChild("MoveOnlyArguments"), Clean());
}

SCENARIO(CallableIsGivenBack) {
  StartPython();
  const InterpreterView view = InterpreterView::Current();
  Exec(R"(
import weakref
class Callable:
    def __call__(self): pass
f = Callable()
alive = weakref.ref(f)
)");
  std::optional<PyCallback<absl::Status()>> callback(
      std::in_place, view, Named("f"), PyObject_CallNoArgs);
  Exec("del f");
  OnNewThread([&] {
    REQUIRE((*callback)().ok());
    callback.reset();  // detached: deferred
    REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
  });
  REQUIRE(Eval("alive() is None") == 1);

  // A callable that has the callback destroyed while it is called.
  Exec("f = Callable()\nalive = weakref.ref(f)");
  callback.emplace(view, Named("f"), [&callback](PyObject* f) {
    Exec("del f");
    callback.reset();
    REQUIRE(Eval("alive() is not None") == 1);
    return PyObject_CallNoArgs(f);
  });
  OnNewThread([&] {
    REQUIRE((*callback)().ok());
    REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
  });
  REQUIRE(Eval("alive() is None") == 1);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(CallbackTest, LastCopyGivesTheCallableBackAlsoFromWithinACall) {
  EXPECT_EQ(RunChild("CallableIsGivenBack"), Clean());
}

SCENARIO(CxxExceptions) {
  StartPython();
  PyCallback<absl::Status()> throws(
      InterpreterView::Current(), Py_None,
      [](PyObject*) -> PyObject* { throw std::out_of_range("thrown"); });
  PyErr_SetString(PyExc_KeyError, "mine");
  bool caught = false;
  try {
    (void)throws();
  } catch (const std::out_of_range&) {
    caught = true;
  }
  REQUIRE(caught);
  REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
  PyErr_Clear();
  OnNewThread([&] {
    caught = false;
    try {
      (void)throws();
    } catch (const std::out_of_range&) {
      caught = true;
    }
    REQUIRE(caught);
  });
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(CallbackTest, CxxExceptionsPassThrough) {
  EXPECT_EQ(RunChild("CxxExceptions"), Clean());
}

SCENARIO(Empty) {
  Twice none;
  REQUIRE(!none && none.status() == PYHOLD_EMISUSE);
  absl::Status status = none(1).status();
  REQUIRE(status.code() == absl::StatusCode::kCancelled);
  REQUIRE(Contains(status.message(), "PYHOLD_EMISUSE"));

  StartPython();
  Twice twice = MakeTwice();
  REQUIRE(twice && twice.status() == PYHOLD_OK);
  Twice without_view(InterpreterView(), Named("twice"), CallWithLong, ToLong);
  REQUIRE(!without_view && absl::IsCancelled(without_view(1).status()));
  Twice without_callable(InterpreterView::Current(), nullptr, CallWithLong,
                         ToLong);
  REQUIRE(!without_callable && absl::IsCancelled(without_callable(1).status()));
  Twice moved = std::move(twice);
  REQUIRE(!twice && !twice(1).ok());
  REQUIRE(*moved(1) == 2);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(CallbackTest, EmptyOnesAreRefusedAndSayWhy) {
  EXPECT_EQ(RunChild("Empty"), Clean());
}

SCENARIO(SubinterpreterCallback) {
  StartPython();
  SubInterpreter sub(SubInterpreter::kOwn);
  Twice twice = MakeTwice();
  OnNewThread([&] { REQUIRE(*twice(3) == 6); });
  sub.End();
  REQUIRE(IsRefusal(twice(3).status()));
  REQUIRE(*MakeTwice()(3) == 6);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(CallbackTest, CallsTheInterpreterItWasMadeIn) {
  EXPECT_EQ(RunChild("SubinterpreterCallback"), Clean());
}

// --- Status types of one's own: examples/status_types.h ---

SCENARIO(WithExpected) {
  StartPython();
  Exec(R"(
def check(x):
    if x < 0: raise ValueError('negative')
    return x + 1
)");
  auto check = Callback<Expected<long>>("check");
  PyCallback<Expected<void>(long)> only_check(InterpreterView::Current(),
                                              Named("check"), CallWithLong);
  OnNewThread([&] {
    REQUIRE(*check(1) == 2);
    REQUIRE(only_check(1));
    Expected<long> negative = check(-1);
    REQUIRE(!negative && negative.failure().refused == PYHOLD_OK);
    REQUIRE(negative.failure().message == "ValueError: negative");
    REQUIRE(negative.failure().error->code() ==
            pyhold::ErrorCode::kInvalidArgument);
    REQUIRE(only_check(-1).failure().message == "ValueError: negative");
  });
  Expected<void> failed = only_check(-1);
  REQUIRE(pyhold::RestorePyError(failed) == PYHOLD_OK);
  REQUIRE(PyErr_ExceptionMatches(PyExc_ValueError));
  PyErr_Clear();
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(check(1).failure().refused == PYHOLD_EFINALIZING);
  REQUIRE(only_check(1).failure().refused == PYHOLD_EFINALIZING);
  return 0;
}
TEST(CallbackTest, WorksWithAnExpectedLikeStatus) {
  EXPECT_EQ(RunChild("WithExpected"), Clean());
}

// What `fn` throws, as text.
std::string What(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const PythonRaised& e) {
    return std::string("raised ") + e.what();
  } catch (const PythonRefused& e) {
    return std::string("refused ") + e.what();
  }
  return "";
}

SCENARIO(WithExceptions) {
  StartPython();
  Exec(R"(
def check(x):
    if x < 0: raise ValueError('negative')
    return x + 1
)");
  auto check = Callback<long, Thrown>("check");
  PyCallback<void(long), Thrown> only_check(InterpreterView::Current(),
                                            Named("check"), CallWithLong);
  std::exception_ptr kept;
  OnNewThread([&] {
    REQUIRE(check(1) == 2);
    only_check(1);
    REQUIRE(What([&] { check(-1); }) == "raised ValueError: negative");
    REQUIRE(What([&] { only_check(-1); }) == "raised ValueError: negative");
    try {
      only_check(-2);
    } catch (...) {
      kept = std::current_exception();
    }
  });
  try {
    std::rethrow_exception(kept);
  } catch (const PythonRaised& e) {
    REQUIRE(e.error().Restore() == PYHOLD_OK);
    REQUIRE(PyErr_ExceptionMatches(PyExc_ValueError));
    PyErr_Clear();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(What([&] { check(1); }) == "refused PYHOLD_EFINALIZING");
  REQUIRE(What([&] { only_check(1); }) == "refused PYHOLD_EFINALIZING");
  return 0;
}
TEST(CallbackTest, WorksWithAStatusThatIsThrown) {
  EXPECT_EQ(RunChild("WithExceptions"), Clean());
}

}  // namespace
