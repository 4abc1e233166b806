// What it costs a native thread to become attached to Python and to go back:
// pyhold beside everything else that does it, in one process and one run.
//
// A benchmark is named WAY/SITUATION/INSIDE/THREADS.
//   way        what is done n times (the structs below)
//   situation  what the thread is before, each time:
//                none      without a thread state (what the way itself keeps
//                          from one time to the next aside)
//                detached  with a detached state that is its PyGILState
//                nested    attached, by the same way
//                attached  attached, as one of Python's own threads is
//   inside     empty, or call: one call of a Python function that does nothing
//   threads    how many do it at the same time; 1b: one does, and beside it
//              another is busy with what is not Python. Two processors may be
//              two halves of one core, where a thread alone has the units of
//              both: what two threads cost each other shows against this.
//
// Each run measures threads that are made for it. Google Benchmark's own would
// not do: what one way leaves on its thread (a kept state, which is also that
// thread's PyGILState) would be there for the next. So a run is one batch of
// all its iterations, timed by those threads after a short warm-up, which they
// leave together; of two threads the rates are added. The main thread is
// detached and waits, so that nobody else wants the GIL.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
//
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "bench/pep788.h"
#include "pyhold/persistent_thread_state.h"
#include "pyhold/pyhold.h"

#if __has_include(<pybind11/gil.h>)
#define HAVE_PYBIND11 1
#include <pybind11/pybind11.h>
#else
#define HAVE_PYBIND11 0
#endif

#if __has_include(<nanobind/nanobind.h>)
#define HAVE_NANOBIND 1
#include <nanobind/nanobind.h>
#else
#define HAVE_NANOBIND 0
#endif

#define HAVE_NATIVE (PY_VERSION_HEX >= 0x030F0000)

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMostThreads = 2;

struct Env {
  PyInterpreterState* interp;
  pyhold::InterpreterView view;
  pyhold::InterpreterView per_call;
  // One for each thread: they share nothing that they need not share.
  PyObject* functions[kMostThreads];
#if HAVE_NATIVE
  PyInterpreterView* native_view;
  PyInterpreterGuard* native_guard;
#endif
};
Env* env;

void Expect(bool it_is_so, const char* what) {
  if (it_is_so) return;
  std::fprintf(stderr, "This did not hold: %s\n", what);
  std::_Exit(1);
}

// --- Ways ---

thread_local PyThreadState* own_state;  // in the situation `detached`

struct Bare {
  static constexpr char kName[] = "bare";
  Bare() { PyEval_RestoreThread(own_state); }
  ~Bare() { PyEval_SaveThread(); }
};

struct GilState {
  static constexpr char kName[] = "gilstate";
  PyGILState_STATE state = PyGILState_Ensure();
  ~GilState() { PyGILState_Release(state); }
};

// What Arrow does around each call into Python: PyAcquireGIL, and the caller's
// pending error set aside.
struct Arrow {
  static constexpr char kName[] = "arrow";
  PyGILState_STATE state = PyGILState_Ensure();
  PyObject *type, *value, *traceback;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  Arrow() { PyErr_Fetch(&type, &value, &traceback); }
  ~Arrow() {
    PyErr_Restore(type, value, traceback);
    PyGILState_Release(state);
  }
#pragma GCC diagnostic pop
};

#if HAVE_PYBIND11
struct Pybind11 {
  static constexpr char kName[] = "pybind11";
  pybind11::gil_scoped_acquire acquire;
};
#endif

#if HAVE_NANOBIND
struct Nanobind {
  static constexpr char kName[] = "nanobind";
  nanobind::gil_scoped_acquire acquire;
};
#endif

#if HAVE_NATIVE
struct NativeView {
  static constexpr char kName[] = "native_view";
  PyThreadStateToken* token = PyThreadState_EnsureFromView(env->native_view);
  NativeView() { Expect(token != nullptr, "EnsureFromView"); }
  ~NativeView() { PyThreadState_Release(token); }
};

struct NativeGuard {
  static constexpr char kName[] = "native_guard";
  PyThreadStateToken* token = PyThreadState_Ensure(env->native_guard);
  NativeGuard() { Expect(token != nullptr, "PyThreadState_Ensure"); }
  ~NativeGuard() { PyThreadState_Release(token); }
};
#endif

struct Pep788View {
  static constexpr char kName[] = "pep788_view";
  void* token = pep788::EnsureFromView();
  Pep788View() { Expect(token != nullptr, "pyhold's EnsureFromView"); }
  ~Pep788View() { pep788::Release(token); }
};

struct Pep788Guard {
  static constexpr char kName[] = "pep788_guard";
  void* token = pep788::Ensure();
  Pep788Guard() { Expect(token != nullptr, "pyhold's Ensure"); }
  ~Pep788Guard() { pep788::Release(token); }
};

struct PerCall {
  static constexpr char kName[] = "per_call";
  pyhold::ThreadStateGuard guard{env->per_call};
  PerCall() { Expect(bool(guard), "a guard of the view"); }
};

struct Kept {
  static constexpr char kName[] = "kept";
  pyhold::ThreadStateGuard guard{env->view};
  Kept() { Expect(bool(guard), "a guard of the view"); }
};

struct Persistent : Kept {
  static constexpr char kName[] = "persistent";
};

struct Hold {
  static constexpr char kName[] = "hold";
  pyhold::InterpreterRef ref = env->view.Hold();
  Hold() { Expect(bool(ref), "a hold of the view"); }
};

#if HAVE_NATIVE
struct NativeHold {
  static constexpr char kName[] = "native_hold";
  PyInterpreterGuard* guard = PyInterpreterGuard_FromView(env->native_view);
  NativeHold() { Expect(guard != nullptr, "PyInterpreterGuard_FromView"); }
  ~NativeHold() { PyInterpreterGuard_Close(guard); }
};
#endif

// --- Situations: what is alive on the thread while it measures ---

template <class Way>
struct None {
  static constexpr char kName[] = "none";
};
template <>
struct None<Persistent> {
  static constexpr char kName[] = "none";
  pyhold::PersistentThreadState state{env->view};
  None() { Expect(bool(state), "a persistent state"); }
};

template <class Way>
struct Detached {
  static constexpr char kName[] = "detached";
  Detached() {
    own_state = PyThreadState_New(env->interp);
    PyEval_RestoreThread(own_state);
    PyEval_SaveThread();
  }
  ~Detached() {
    PyEval_RestoreThread(own_state);
    PyThreadState_Clear(own_state);
    PyThreadState_DeleteCurrent();
  }
};

template <class Way>
struct Attached : Detached<Way> {
  static constexpr char kName[] = "attached";
  Attached() { PyEval_RestoreThread(own_state); }
  ~Attached() { PyEval_SaveThread(); }
};

template <class Way>
struct Nested {
  static constexpr char kName[] = "nested";
  Way outer;
};

// --- Measuring ---

template <class Way, bool kCall>
void Loop(PyObject* function, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    Way way;
    if constexpr (kCall) {
      PyObject* result = PyObject_CallNoArgs(function);
      Expect(result != nullptr, "the call");
      Py_DECREF(result);
    } else {
      benchmark::ClobberMemory();
    }
  }
}

// Something to do that shares nothing with anyone, until `done`.
void BeBusy(const std::atomic<bool>& done) {
  std::mutex own;
  while (!done.load(std::memory_order_relaxed)) {
    for (int i = 0; i < 100; ++i) {
      std::lock_guard lock(own);
      benchmark::ClobberMemory();
    }
  }
}

template <class Way, template <class> class Situation, bool kCall>
double Seconds(int thread_count, bool beside_busy, std::int64_t n) {
  std::atomic<bool> done{false};
  std::thread busy;
  if (beside_busy) busy = std::thread([&] { BeBusy(done); });
  struct Span {
    Clock::time_point begin, end;
  } spans[kMostThreads];
  std::atomic<int> ready{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < thread_count; ++t) {
    threads.emplace_back([&, t] {
      Situation<Way> situation;
      (void)situation;
      PyObject* function = env->functions[t];
      Loop<Way, kCall>(function, std::min<std::int64_t>(n, 100));
      ++ready;
      while (ready != thread_count) std::this_thread::yield();
      spans[t].begin = Clock::now();
      Loop<Way, kCall>(function, n);
      spans[t].end = Clock::now();
    });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  if (beside_busy) busy.join();
  double per_second = 0;
  for (int t = 0; t < thread_count; ++t) {
    std::chrono::duration<double> seconds = spans[t].end - spans[t].begin;
    per_second += 1 / seconds.count();
  }
  return thread_count / per_second;
}

template <class Way, template <class> class Situation, bool kCall>
void Register(int thread_count, bool beside_busy = false) {
  std::string name = std::string(Way::kName) + '/' + Situation<Way>::kName +
                     (kCall ? "/call/" : "/empty/") +
                     std::to_string(thread_count) + (beside_busy ? "b" : "");
  benchmark::RegisterBenchmark(name, [=](benchmark::State& state) {
    // One batch of all: see the top.
    while (state.KeepRunningBatch(state.max_iterations)) {
      state.SetIterationTime(Seconds<Way, Situation, kCall>(
          thread_count, beside_busy, state.max_iterations));
    }
  })->UseManualTime();
}

template <class Way, template <class> class Situation>
void Register() {
  Register<Way, Situation, false>(1);
  Register<Way, Situation, true>(1);
}

template <class Way, template <class> class Situation>
void RegisterTwo() {
  Register<Way, Situation, false>(2);
  Register<Way, Situation, true>(2);
}

template <class Way>
void RegisterAll() {
  Register<Way, None>();
  Register<Way, Detached>();
  Register<Way, Nested>();
  Register<Way, Attached, false>(1);
}

// --- Memory ---

// What malloc has given out, in all arenas, for one thread that has called
// Python and is idle: with a state of its own that PyGILState made, or with one
// that pyhold keeps. Their difference is what pyhold adds. (CPython takes
// thread states from malloc; anything else of it is the same in both.) What is
// there once, however many the threads, is left out: the first ones do not
// count. ./dev turns malloc's own caches off for this.
template <class Way>
double BytesPerThread() {
  constexpr int kFirst = 64, kThreads = kFirst + 128;
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  auto wait = [&] {
    ++ready;
    while (!go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  auto arrived = [&](int count) {
    while (ready != count)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  // Takes over what threads before left behind, and leaves nothing while it
  // lives, so that the threads below find the same whoever came before.
  std::thread reclaimer([&] {
    {
      Kept once;
    }
    wait();
  });
  arrived(1);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  struct mallinfo2 before{};
  for (int t = 0; t < kThreads; ++t) {
    if (t == kFirst) {
      arrived(1 + kFirst);
      before = mallinfo2();
    }
    threads.emplace_back([&] {
      if constexpr (std::is_same_v<Way, GilState>) {
        PyGILState_STATE state = PyGILState_Ensure();
        PyThreadState* detached = PyEval_SaveThread();
        wait();
        PyEval_RestoreThread(detached);
        PyGILState_Release(state);
      } else {
        {
          Way once;
        }
        wait();
      }
    });
  }
  arrived(1 + kThreads);
  const struct mallinfo2 after = mallinfo2();
  go = true;
  for (std::thread& thread : threads) thread.join();
  reclaimer.join();
  auto bytes = [](const struct mallinfo2& m) {
    return static_cast<double>(m.uordblks + m.hblkhd);
  };
  return (bytes(after) - bytes(before)) / (kThreads - kFirst);
}

template <class Way>
void RegisterMemory() {
  benchmark::RegisterBenchmark(std::string(Way::kName) + "/memory/bytes/128",
                               [](benchmark::State& state) {
                                 double bytes = 0;
                                 while (state.KeepRunning()) {
                                   bytes = BytesPerThread<Way>();
                                   state.SetIterationTime(1e-9);
                                 }
                                 state.counters["bytes"] = bytes;
                               })
      ->UseManualTime()
      ->Iterations(1);
}

// --- The program ---

void StartPython() {
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.parse_argv = 0;
  PyStatus status = PyStatus_Ok();
  if (const char* path = std::getenv("PYTHON_BIN_PATH"))
    status = PyConfig_SetBytesString(&config, &config.program_name, path);
  if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status)) Py_ExitStatusException(status);
}

Env MakeEnv() {
  Env e{};
  e.interp = PyInterpreterState_Get();
  e.view = pyhold::InterpreterView::Current();
  e.per_call = e.view.With(PYHOLD_PER_CALL);
  Expect(e.view && e.per_call, "views of the main interpreter");
  for (PyObject*& function : e.functions) {
    PyObject* names = PyDict_New();
    PyObject* done = PyRun_String("def f(): pass", Py_file_input, names, names);
    Expect(done != nullptr, "def f(): pass");
    Py_DECREF(done);
    function = Py_NewRef(PyDict_GetItemString(names, "f"));
    Py_DECREF(names);
  }
  pep788::Open();
#if HAVE_NATIVE
  e.native_view = PyInterpreterView_FromCurrent();
  e.native_guard = PyInterpreterGuard_FromCurrent();
  Expect(e.native_view && e.native_guard, "native view and guard");
#endif
#if HAVE_PYBIND11
  pybind11::detail::get_internals();
#endif
  return e;
}

void RegisterEverything() {
  Register<Bare, Detached>();
  RegisterTwo<Bare, Detached>();
  RegisterAll<GilState>();
  RegisterTwo<GilState, None>();
  RegisterAll<Arrow>();
#if HAVE_PYBIND11
  RegisterAll<Pybind11>();
#endif
#if HAVE_NANOBIND
  RegisterAll<Nanobind>();
#endif
#if HAVE_NATIVE
  RegisterAll<NativeView>();
  RegisterAll<NativeGuard>();
  RegisterTwo<NativeView, None>();
  Register<NativeHold, None, false>(1);
  Register<NativeHold, None, false>(2);
#endif
  RegisterAll<Pep788View>();
  RegisterAll<Pep788Guard>();
  RegisterAll<PerCall>();
  RegisterAll<Kept>();
  RegisterTwo<Kept, None>();
#ifdef Py_GIL_DISABLED
  Register<Kept, None, false>(1, true);
#endif
  Register<Persistent, None>();
  RegisterTwo<Persistent, None>();
  Register<Hold, None, false>(1);
  Register<Hold, None, false>(2);
  RegisterMemory<GilState>();
  RegisterMemory<Kept>();
}

// Told to report.py through Google Benchmark's output.
void AddContext() {
  benchmark::AddCustomContext("python", Py_GetVersion());
  benchmark::AddCustomContext("compiler",
#if defined(__clang__)
                              "clang " __clang_version__
#else
                              "gcc " __VERSION__
#endif
  );
#ifdef Py_GIL_DISABLED
  benchmark::AddCustomContext("free_threaded", "1");
#endif
#if HAVE_PYBIND11
  benchmark::AddCustomContext("pybind11",
                              std::to_string(PYBIND11_VERSION_MAJOR) + '.' +
                                  std::to_string(PYBIND11_VERSION_MINOR) + '.' +
                                  std::to_string(PYBIND11_VERSION_MICRO));
#endif
#if HAVE_NANOBIND
  benchmark::AddCustomContext("nanobind",
                              std::to_string(NB_VERSION_MAJOR) + '.' +
                                  std::to_string(NB_VERSION_MINOR) + '.' +
                                  std::to_string(NB_VERSION_PATCH));
#endif
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  StartPython();
  Env the_env = MakeEnv();
  env = &the_env;
  AddContext();
  RegisterEverything();
  PyThreadState* main_state = PyEval_SaveThread();
  std::size_t run = benchmark::RunSpecifiedBenchmarks();
  PyEval_RestoreThread(main_state);
  pep788::Close();
#if HAVE_NATIVE
  PyInterpreterGuard_Close(the_env.native_guard);
  PyInterpreterView_Close(the_env.native_view);
#endif
  return run == 0 || Py_FinalizeEx() != 0;
}
