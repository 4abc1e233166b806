// SafeCallIntoPython, error states and exceptions as statuses, on real
// interpreters.
#include "tests/support/python.h"

#include <atomic>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pyhold/absl_status.h"
#include "pyhold/pyhold.h"
#include "tests/support/child.h"

namespace {

using pyhold::ErrorCode;
using pyhold::ErrorState;
using pyhold::InterpreterView;
using pyhold::ObjectRef;
using pyhold::PythonError;
using pyhold::RestorePyError;
using pyhold::SafeCallIntoPython;
using pyhold::ThreadStateDetachGuard;
using pyhold::ThreadStateGuard;
using testing::HasSubstr;

// Runs code that raises; the exception is pending then.
void Raise(const char* code) {
  PyObject* dict = PyModule_GetDict(PyImport_AddModule("__main__"));
  REQUIRE(PyRun_String(code, Py_file_input, dict, dict) == nullptr);
  REQUIRE(PyErr_Occurred());
}

// The pending exception, taken: a new reference.
PyObject* Take() {
#if PY_VERSION_HEX >= 0x030C0000
  return PyErr_GetRaisedException();
#else
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != nullptr) PyException_SetTraceback(value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return value;
#endif
}

// Whether `exception` has a traceback whose last entry is in `function`.
bool ComesFrom(PyObject* exception, const char* function) {
  PyObject* globals = PyModule_GetDict(PyImport_AddModule("__main__"));
  PyDict_SetItemString(globals, "exception", exception);
  Exec(
      "import traceback\n"
      "where = traceback.extract_tb(exception.__traceback__)[-1].name\n"
      "del exception");
  return Eval(("where == '" + std::string(function) + "'").c_str()) == 1;
}

SCENARIO(ErrorIsSetAside) {
  StartPython();
  {  // none
    ErrorState aside;
    PyErr_SetString(PyExc_ValueError, "is discarded");
  }
  REQUIRE(!PyErr_Occurred());
  Raise("def deep(): raise KeyError('mine')\ndeep()");
  {
    ErrorState aside;
    REQUIRE(!PyErr_Occurred());
    ErrorState nested;
    PyErr_SetString(PyExc_ValueError, "is discarded");
  }
  REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
  PyObject* exception = Take();
  REQUIRE(ComesFrom(exception, "deep"));
  Py_DECREF(exception);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(ErrorStateTest, SetsAsideAndPutsBack) {
  EXPECT_EQ(RunChild("ErrorIsSetAside"), Clean());
}

SCENARIO(Results) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  ThreadStateDetachGuard detached;
  std::thread([&] {
    absl::Status nothing = SafeCallIntoPython<absl::Status>(view, [] {});
    REQUIRE(nothing.ok());
    absl::StatusOr<long> value =
        SafeCallIntoPython<absl::Status>(view, [] { return Eval("6 * 7"); });
    REQUIRE(value.ok() && *value == 42);
    absl::StatusOr<std::unique_ptr<int>> moved =
        SafeCallIntoPython<absl::Status>(
            view,
            [p = std::make_unique<int>(7)]() mutable { return std::move(p); });
    REQUIRE(moved.ok() && **moved == 7);
    absl::Status own = SafeCallIntoPython(
        view, [] { return absl::InternalError("fn's own"); });
    REQUIRE(own == absl::InternalError("fn's own"));
    absl::StatusOr<int> result = SafeCallIntoPython<absl::Status>(
        view, [] { return absl::StatusOr<int>(3); });
    REQUIRE(result.ok() && *result == 3);

    // What Python raised makes the result, whatever fn returned.
    result = SafeCallIntoPython(view, [] {
      Raise("[][1]");
      return absl::StatusOr<int>(3);
    });
    REQUIRE(result.status().code() == absl::StatusCode::kOutOfRange);
    REQUIRE(result.status().message() == "IndexError: list index out of range");
    nothing = SafeCallIntoPython<absl::Status>(view, [] { Raise("{}[1]"); });
    REQUIRE(nothing.code() == absl::StatusCode::kNotFound);
    value = SafeCallIntoPython<absl::Status>(view, [] {
      Raise("1 / 0");
      return 1L;
    });
    REQUIRE(value.status().code() == absl::StatusCode::kInvalidArgument);
    ThreadStateGuard guard(view);
    REQUIRE(!PyErr_Occurred());
  }).join();
  absl::Status empty = SafeCallIntoPython<absl::Status>(InterpreterView(),
                                                        [] { REQUIRE(false); });
  REQUIRE(empty.code() == absl::StatusCode::kCancelled);
  return 0;
}
TEST(SafeCallTest, ReturnsWhatFnReturnsOrWhyNot) {
  EXPECT_EQ(RunChild("Results"), Clean());
}

SCENARIO(Refused) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  REQUIRE(Py_FinalizeEx() == 0);
  bool called = false;
  absl::StatusOr<int> result =
      SafeCallIntoPython<absl::Status>(view, [&] { return called = true, 1; });
  REQUIRE(!called && result.status().code() == absl::StatusCode::kCancelled);
  puts(result.status().ToString().c_str());
  REQUIRE(RestorePyError(result.status()) == PYHOLD_EMISUSE);
  return 0;
}
TEST(SafeCallTest, RefusalIsCancelledAndSaysWhy) {
  ChildResult result = RunChild("Refused");
  EXPECT_EQ(result, Clean());
  EXPECT_THAT(result.output, HasSubstr("PYHOLD_EFINALIZING"));
}

// The caller's pending exception survives every way out.
SCENARIO(CallersErrorIsPutBack) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec("import sys\nclass Mine(Exception): pass\nmine = Mine()");
  const long references = Eval("sys.getrefcount(mine)");
  for (int i = 0; i < 1000; ++i) {
    Raise("raise mine");
    switch (i % 4) {
      case 0:
        REQUIRE(SafeCallIntoPython<absl::Status>(view, [] {
                  REQUIRE(!PyErr_Occurred());
                }).ok());
        break;
      case 1:
        REQUIRE(
            !SafeCallIntoPython<absl::Status>(view, [] { Raise("x"); }).ok());
        break;
      case 2:
        REQUIRE(!SafeCallIntoPython(view, [] {
                   return absl::InternalError("own");
                 }).ok());
        break;
      case 3:
        try {
          (void)SafeCallIntoPython<absl::Status>(view, [] {
            Raise("raise ValueError('is discarded')");
            throw std::runtime_error("C++");
          });
          REQUIRE(false);
        } catch (const std::runtime_error&) {
        }
        break;
    }
    PyObject* exception = Take();
    REQUIRE(exception ==
            PyDict_GetItemString(
                PyModule_GetDict(PyImport_AddModule("__main__")), "mine"));
    Py_DECREF(exception);
    Exec("mine.__traceback__ = None");
  }
  REQUIRE(Eval("sys.getrefcount(mine)") == references);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(SafeCallTest, CallersErrorIsPutBackOnEveryWayOut) {
  EXPECT_EQ(RunChild("CallersErrorIsPutBack"), Clean());
}

SCENARIO(Codes) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  const struct {
    const char* code;
    ErrorCode expected;
    const char* message;
  } cases[] = {
      {"raise KeyError('k')", ErrorCode::kNotFound, "KeyError: 'k'"},
      {"raise MemoryError", ErrorCode::kResourceExhausted, "MemoryError"},
      {"raise NotImplementedError('x')", ErrorCode::kUnimplemented,
       "NotImplementedError: x"},
      {"raise TimeoutError('t')", ErrorCode::kDeadlineExceeded,
       "TimeoutError: t"},
      {"raise KeyboardInterrupt", ErrorCode::kCancelled, "KeyboardInterrupt"},
      {"open('/no such file')", ErrorCode::kNotFound,
       "FileNotFoundError: [Errno 2] No such file or directory: '/no such "
       "file'"},
      {"raise UnicodeError('u')", ErrorCode::kInvalidArgument,
       "UnicodeError: u"},
      {"raise OSError('o')", ErrorCode::kUnknown, "OSError: o"},
      {"class Own(Exception): pass\nraise Own('text')", ErrorCode::kUnknown,
       "Own: text"},
      {"import zipfile\nraise zipfile.BadZipFile('z')", ErrorCode::kUnknown,
       "zipfile.BadZipFile: z"},
      {"class Bad(Exception):\n  def __str__(self): raise ValueError\nraise "
       "Bad",
       ErrorCode::kUnknown, "Bad: <its str() failed>"},
  };
  for (const auto& c : cases) {
    Raise(c.code);
    PythonError error = PythonError::Fetch(view);
    REQUIRE(!PyErr_Occurred());
    if (error.code() != c.expected || error.message() != c.message) {
      printf("%s: %d, %s\n", c.code, static_cast<int>(error.code()),
             error.message().c_str());
      return 1;
    }
  }
  REQUIRE(PythonError::Fetch(view).code() == ErrorCode::kOk);

  // A word of one's own on a type, and a later one.
  PyObject* type = PyDict_GetItemString(
      PyModule_GetDict(PyImport_AddModule("__main__")), "Own");
  PythonError::RegisterCode(view, type, ErrorCode::kAborted);
  Raise("raise Own");
  REQUIRE(PythonError::Fetch(view).code() == ErrorCode::kAborted);
  PythonError::RegisterCode(view, type, ErrorCode::kUnavailable);
  Raise("class Derived(Own): pass\nraise Derived");
  REQUIRE(PythonError::Fetch(view).code() == ErrorCode::kUnavailable);
  {  // not that of another interpreter
    SubInterpreter sub(SubInterpreter::kShared);
    InterpreterView sub_view = InterpreterView::Current();
    Raise("raise ValueError");
    REQUIRE(PythonError::Fetch(sub_view).code() == ErrorCode::kInvalidArgument);
    sub.End();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  StartPython();  // the registered type is gone
  InterpreterView next = InterpreterView::Current();
  Raise("raise KeyError");
  REQUIRE(PythonError::Fetch(next).code() == ErrorCode::kNotFound);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}
TEST(PythonErrorTest, CodeAndMessage) { EXPECT_EQ(RunChild("Codes"), Clean()); }

SCENARIO(RaisedAgain) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  absl::Status status;
  {
    ThreadStateDetachGuard detached;
    std::thread([&] {
      status = SafeCallIntoPython<absl::Status>(
          view, [] { Raise("def deep(): raise KeyError('k')\ndeep()"); });
      REQUIRE(RestorePyError(status) == PYHOLD_EDETACHED);
    }).join();
  }
  absl::Status copy = status;
  status = absl::OkStatus();
  for (int i = 0; i < 2; ++i) {
    REQUIRE(RestorePyError(copy) == PYHOLD_OK);
    REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
    PyObject* exception = Take();
    REQUIRE(ComesFrom(exception, "deep"));
    Py_DECREF(exception);
  }
  REQUIRE(RestorePyError(absl::InternalError("x")) == PYHOLD_EMISUSE);
  absl::Status forged(absl::StatusCode::kNotFound, copy.message());
  forged.SetPayload(pyhold::kPythonErrorPayload, absl::Cord(copy.message()));
  REQUIRE(RestorePyError(forged) == PYHOLD_EMISUSE);
  {
    SubInterpreter sub(SubInterpreter::kShared);
    REQUIRE(InterpreterView::Current());
    REQUIRE(RestorePyError(copy) == PYHOLD_EMISUSE);
    REQUIRE(!PyErr_Occurred());
    sub.End();
  }
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(RestorePyError(copy) == PYHOLD_EDETACHED);
  REQUIRE(copy.message() == "KeyError: 'k'");
  return 0;  // destroyed after the runtime
}
TEST(PythonErrorTest, IsRaisedAgainOnItsOwnInterpreter) {
  EXPECT_EQ(RunChild("RaisedAgain"), Clean());
}

// A failure that is kept, as a cache keeps one. Python's restore() raises it.
absl::Status kept;

PyObject* RestoreKept(PyObject*, PyObject*) {
  REQUIRE(RestorePyError(kept) == PYHOLD_OK);
  return nullptr;
}

// Keeps what `code` raises. Python's caught() raises it in a frame with a
// Payload, of which Payload.alive counts those that live.
void Keep(const InterpreterView& view, const char* code) {
  static PyMethodDef restore = {"restore", RestoreKept, METH_NOARGS, nullptr};
  PyObject* function = PyCFunction_New(&restore, nullptr);
  REQUIRE(PyModule_AddObjectRef(PyImport_AddModule("__main__"), "restore",
                                function) == 0);
  Py_DECREF(function);
  Exec(R"(
import contextlib, gc, threading
class Own(Exception): pass
class Payload:
    alive, lock, at_end = 0, threading.Lock(), None
    def __init__(self):
        with Payload.lock: Payload.alive += 1
    def __del__(self):
        with Payload.lock: Payload.alive -= 1
        if Payload.at_end: Payload.at_end()
def serve():
    payload = Payload()
    restore()
def caught():
    try: serve()
    except Own as e: return e
def state(e):
    traceback, lines = e.__traceback__, []
    while traceback:
        lines.append((traceback.tb_frame.f_code.co_name, traceback.tb_lineno))
        traceback = traceback.tb_next
    return (id(e), lines, id(e.__context__), id(e.__cause__),
            e.__suppress_context__, [*getattr(e, '__notes__', ())])
)");
  kept = SafeCallIntoPython<absl::Status>(view, [code] { Raise(code); });
}

// Drops it; nothing is left then.
void DropKept() {
  kept = absl::OkStatus();
  Exec("gc.collect()\nassert Payload.alive == 0, Payload.alive");
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
}

// A failure with notes, context and cause; one without any.
const char* const kFailures[] = {R"(
def fail():
    try: {}['context']
    except KeyError:
        e = Own('text')
        e.add_note('first')
        raise e from OSError('cause')
fail())",
                                 "raise Own('text')"};

SCENARIO(RaisedAgainAsFetched) {
  StartPython();
  Keep(InterpreterView::Current(), kFailures[argument]);
  Exec(R"(
first = state(caught())
assert [name for name, line in first[1]][:2] == ['caught', 'serve'], first
for i in range(100):
    e = caught()
    assert state(e) == first, (i, first, state(e))
    assert Payload.alive == 1, Payload.alive
    e.add_note('of a handler')
    try:
        try: raise ValueError
        except ValueError: raise e
    except Own: assert type(e.__context__) is ValueError
    try: raise e from LookupError()
    except Own: assert e.__suppress_context__
    if i == 50:  # a handler frees the frames at once
        e.__traceback__ = None
        assert Payload.alive == 0, Payload.alive
    del e
)");
  DropKept();
  return 0;
}
TEST(PythonErrorTest, IsRaisedAgainAsItWasFetched) {
  EXPECT_EQ(RunChild("RaisedAgainAsFetched", 0), Clean());
  EXPECT_EQ(RunChild("RaisedAgainAsFetched", 1), Clean());
}

// A destructor that runs inside Restore() raises the same exception.
SCENARIO(RaisedByADestructor) {
  StartPython();
  Keep(InterpreterView::Current(), kFailures[argument]);
  Exec(R"(
first = state(caught())
def raise_it():
    try: restore()
    except Own as e: e.add_note('of the destructor')
Payload.at_end = raise_it
for i in range(100):
    assert state(caught()) == first, (i, first)
Payload.at_end = None
)");
  DropKept();
  return 0;
}
TEST(PythonErrorTest, IsRaisedAsFetchedWhenADestructorRaisesIt) {
  EXPECT_EQ(RunChild("RaisedByADestructor", 0), Clean());
  EXPECT_EQ(RunChild("RaisedByADestructor", 1), Clean());
}

// A handler raises the context, whose context is then the exception. Both
// together would be a ring, in which ExitStack looks for its end for ever.
SCENARIO(ContextIsRaised) {
  StartPython();
  Keep(InterpreterView::Current(), kFailures[0]);
  Exec(R"(
e = caught()
context = e.__context__
try:
    try: restore()
    except Own: raise context
except KeyError: pass
assert context.__context__ is e
assert caught() is e
assert context.__context__ is e and e.__context__ is None
class Manager:
    def __enter__(self): pass
    def __exit__(self, *args): raise ValueError
try:
    with contextlib.ExitStack() as stack:
        stack.enter_context(Manager())
        restore()
except ValueError: pass

# A ring of others is none of ours.
other = ValueError()
context.__context__, other.__context__ = other, context
assert caught().__context__ is context
del e, context, other
)");
  DropKept();
  return 0;
}
TEST(PythonErrorTest, MakesNoRingOfContexts) {
  EXPECT_EQ(RunChild("ContextIsRaised", 0, 30), Clean());
}

// What is pending is replaced by Restore(), but only if that succeeds.
SCENARIO(RaisedOverAnother) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Keep(view, kFailures[0]);
  Raise("raise KeyError('pending')");
  REQUIRE(RestorePyError(absl::InternalError("x")) == PYHOLD_EMISUSE);
  REQUIRE(PyErr_ExceptionMatches(PyExc_KeyError));
  REQUIRE(RestorePyError(kept) == PYHOLD_OK);
  REQUIRE(RestorePyError(kept) == PYHOLD_OK);
  PythonError again = PythonError::Fetch(view);
  REQUIRE(again.message() == "Own: text");
  REQUIRE(!PyErr_Occurred());
  // An exception whose attributes cannot be read or set.
  Exec(
      "class Odd(Exception):\n"
      "    __notes__ = property()\n"
      "    def __getattribute__(self, name): raise ValueError(name)\n"
      "    def __setattr__(self, name, value): raise ValueError(name)\n");
  Raise("raise Odd");
  PythonError odd = PythonError::Fetch(view);
  REQUIRE(!PyErr_Occurred());
  for (int i = 0; i < 3; ++i) {
    REQUIRE(odd.Restore() == PYHOLD_OK);
    PyObject* exception = Take();
    REQUIRE(exception == odd.exception().get());
    Py_DECREF(exception);
    REQUIRE(!PyErr_Occurred());
  }
  odd = again = PythonError();
  DropKept();
  return 0;
}
TEST(PythonErrorTest, ReplacesWhatIsPending) {
  EXPECT_EQ(RunChild("RaisedOverAnother"), Clean());
}

// Copies of one status on four threads at once. Each thread sees the one
// exception, whatever the others do; the next raise alone is as the first.
SCENARIO(CopiesRaisedAtOnce) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Keep(view, kFailures[argument]);
  Exec(R"(
import sys
sys.setswitchinterval(1e-6)
first = state(caught())
def handle():
    e = caught()
    assert id(e) == first[0]
    e.add_note('of a handler')
    try:
        try: raise ValueError
        except ValueError: raise e
    except Own: pass
)");
  {
    ThreadStateDetachGuard detached;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&view, copy = kept] {
        for (int i = 0; i < 500; ++i) {
          ThreadStateGuard guard(view);
          absl::Status another = copy;
          REQUIRE(RestorePyError(another) == PYHOLD_OK);
          REQUIRE(PyErr_Occurred());
          PyErr_Clear();
          Exec("handle()");
        }
      });
    }
    for (auto& thread : threads) thread.join();
  }
  Exec("assert state(caught()) == first, (first, state(caught()))");
  Exec("gc.collect()\nassert Payload.alive == 1, Payload.alive");
  DropKept();
  return 0;
}
TEST(PythonErrorTest, CopiesMayBeRaisedAtOnce) {
  // Free-threaded CPython 3.13 may crash by itself: python/cpython#128421.
  if (!kHasGil && PY_VERSION_HEX < 0x030E0000) GTEST_SKIP();
  EXPECT_EQ(RunChild("CopiesRaisedAtOnce", 0), Clean());
  EXPECT_EQ(RunChild("CopiesRaisedAtOnce", 1), Clean());
}

// Copies on many threads, destroyed there; nothing is left.
SCENARIO(CopiesEverywhere) {
  StartPython();
  InterpreterView view = InterpreterView::Current();
  Exec(R"(
died = 0
class Own(Exception):
    def __del__(self):
        global died
        died += 1
)");
  for (int round = 0; round < 20; ++round) {
    absl::Status status = SafeCallIntoPython<absl::Status>(
        view, [] { Raise("raise Own('text')"); });
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([copy = status] {
        for (int i = 0; i < 100; ++i) {
          absl::Status another = copy;
          REQUIRE(another.message() == "Own: text");
        }
      });
    }
    status = absl::OkStatus();
    for (auto& thread : threads) thread.join();
  }
  {
    pyhold::ThreadStateDetachGuard detached;
    REQUIRE(pyhold_deferred_wait(view.raw(), 60000) == PYHOLD_OK);
  }
  Exec("import gc; gc.collect()");
  REQUIRE(Eval("died") == 20);
  REQUIRE(Py_FinalizeEx() == 0);
  REQUIRE(pyhold_deferred_leaked() == 0);
  return 0;
}
TEST(PythonErrorTest, CopiesMayBeDestroyedAnywhere) {
  EXPECT_EQ(RunChild("CopiesEverywhere"), Clean());
}

}  // namespace
