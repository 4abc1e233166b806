// A callback that may come at any time, or never.
//
// Whoever registers a callback cannot hold the interpreter for it: if it never
// comes, Python could never end. A view is stored with the callback instead,
// and asked when it comes.
//
// The C library below knows nothing of Python. It calls back on a thread of
// its own: once while Python lives, once after its end.
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "examples/embed.h"
#include "pyhold/pyhold.h"

namespace {

// --- Someone's event library ---

class EventLoop {
 public:
  ~EventLoop() {
    Fire(0);
    thread_.join();
  }
  void Register(std::function<void(int)> callback) {
    callback_ = std::move(callback);
  }
  // Has the callback called with `event` (not 0) on the loop's thread, and
  // waits until it returns.
  void Fire(int event) {
    std::unique_lock<std::mutex> lock(mutex_);
    event_ = event;
    pending_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !pending_; });
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (bool last = false; !last;) {
      changed_.wait(lock, [&] { return pending_; });
      last = event_ == 0;
      if (!last) callback_(event_);
      pending_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool pending_ = false;
  int event_ = 0;
  std::function<void(int)> callback_;
  std::thread thread_{[this] { Run(); }};
};

// --- The binding ---

// A Python callable, and the view of the interpreter that it belongs to.
class PythonCallback {
 public:
  // Requires: attached.
  explicit PythonCallback(PyObject* callable)
      : view_(pyhold::InterpreterView::Current()),
        callable_(Py_NewRef(callable)) {}
  PythonCallback(const PythonCallback&) = delete;
  PythonCallback& operator=(const PythonCallback&) = delete;
  ~PythonCallback() {
    pyhold::ThreadStateGuard guard(view_);
    if (guard) Py_DECREF(callable_);  // else it went with its interpreter
  }

  // On any thread. Refused when the interpreter is gone, or about to go.
  pyhold_status Call(int event) const {
    pyhold::ThreadStateGuard guard(view_);
    if (!guard) return guard.status();
    PyObject* result = PyObject_CallFunction(callable_, "i", event);
    if (result == nullptr) PyErr_WriteUnraisable(callable_);
    Py_XDECREF(result);
    return PYHOLD_OK;
  }

 private:
  pyhold::InterpreterView view_;
  PyObject* callable_;
};

}  // namespace

int main() {
  EventLoop loop;
  start_python();
  run_python("events = []");
  std::vector<pyhold_status> answers;
  {
    PyObject* events =
        PyObject_GetAttrString(PyImport_AddModule("__main__"), "events");
    PyObject* append = PyObject_GetAttrString(events, "append");
    auto callback = std::make_shared<PythonCallback>(append);
    Py_DECREF(append);
    Py_DECREF(events);
    loop.Register([callback, &answers](int event) {
      answers.push_back(callback->Call(event));
    });
  }
  Py_BEGIN_ALLOW_THREADS;
  loop.Fire(1);
  Py_END_ALLOW_THREADS;
  run_python("assert events == [1]");
  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  loop.Fire(2);

  expect(answers.size() == 2 && answers[0] == PYHOLD_OK &&
             answers[1] == PYHOLD_EFINALIZING,
         "the first event was delivered, the second one refused");
  std::printf("Event 1 reached Python; event 2 came after its end: %s.\n",
              pyhold_status_name(answers[1]));
}
