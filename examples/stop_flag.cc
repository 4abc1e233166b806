// A worker that keeps Python from ending, and is told when to stop.
//
// The worker holds an InterpreterRef, so none of its calls is refused halfway
// through a job. For as long as it does, Py_FinalizeEx waits. OnClose says when
// that begins: it sets a flag, on which the worker finishes its job and lets go.
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>
#include <utility>

#include "examples/embed.h"
#include "pyhold/pyhold.h"

namespace {

class Worker {
 public:
  explicit Worker(const pyhold::InterpreterView& view)
      : ref_(view.Hold()), on_close_(view, [this] { Stop(); }) {
    if (!on_close_) ref_ = {};  // who is not told must not hold
    if (ref_) thread_ = std::thread([this] { Run(); });
  }

  // Requires: detached, since the thread may need the GIL to finish its job.
  ~Worker() {
    Stop();
    if (thread_.joinable()) thread_.join();
  }

  // Waits until n jobs are done, or the worker has been stopped.
  void AwaitJobs(int n) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return jobs_ >= n || stop_; });
  }

  bool stopped() {
    std::lock_guard<std::mutex> lock(mutex_);
    return stop_;
  }

 private:
  void Stop() {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }

  void Run() {
    const pyhold::InterpreterRef ref = std::move(ref_);  // until it returns
    while (!stopped()) {
      {
        pyhold::ThreadStateGuard guard(ref);
        expect(bool(guard), "a held interpreter can be attached");
        run_python("jobs = globals().get('jobs', 0) + 1");
      }
      std::lock_guard<std::mutex> lock(mutex_);
      ++jobs_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  int jobs_ = 0;
  pyhold::InterpreterRef ref_;
  std::thread thread_;
  // Last, so that it is destroyed first: its function uses the others.
  pyhold::OnClose on_close_;
};

}  // namespace

int main() {
  start_python();
  const pyhold::InterpreterView view = pyhold::InterpreterView::Current();
  Worker worker(view);
  Py_BEGIN_ALLOW_THREADS;
  worker.AwaitJobs(10);
  Py_END_ALLOW_THREADS;
  expect(!worker.stopped(), "the worker works");
  run_python("assert jobs >= 10");

  expect(Py_FinalizeEx() == 0, "Python ends without an error");
  expect(worker.stopped(), "the worker was told");
  pyhold::OnClose late(view, [] { expect(false, "never called"); });
  expect(late.status() == PYHOLD_EFINALIZING, "too late to be told");
  std::puts("The worker stopped, and Python ended.");
}
