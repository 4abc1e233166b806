// Python ends while Arrow's threads read files through it.
//
// Arrow's CSV reader reads a member of a ZIP file, through Python's zipfile, and
// its Parquet reader an io.BytesIO: once as a whole, which must give the table
// that the file was written from, and once more, where the main thread calls
// Py_FinalizeEx after half of the reads, joins the reader and returns from
// main(). Each is done with PyGILState_Ensure (gilstate_file.h) and with pyhold
// (py_readable_file.h), in a process of its own. A table shows what became of
// the reads, the reader and the process.
//
// As in ../demo, the parent has no Python, and its children note what they do on
// a shared board.
#include "examples/embed.h"
//
#include <arrow/config.h>
#include <arrow/io/interfaces.h>
#include <arrow/table.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "examples/arrow/gilstate_file.h"
#include "examples/arrow/py_readable_file.h"
#include "examples/arrow/tables.h"

namespace {

constexpr char kUsage[] = R"(usage: demo

Lets Arrow's CSV and Parquet readers read Python files on Arrow's threads, and
finalizes the interpreter in the middle: first with PyGILState_Ensure, then with
pyhold. Prints what became of each. Takes some 10 seconds.

  --help       print this

The environment variable PYTHON_BIN_PATH names the interpreter of the Python
that this program is linked with.

Exit status: 0  with pyhold each read was answered or refused, the readers gave
                an answer and the processes ended by themselves
             1  it was not so, or Python could not be run
             2  the arguments are not usable
)";

constexpr int64_t kRows = 200000;
constexpr int kExitBadInput = 2;

struct Format {
  const char* name;
  const char* what;
  const char* make;  // Python code, which makes `file` of `data`
  std::string (*write)(const ArrowTable&);
  arrow::Result<ArrowTable> (*read)(ArrowFile);
};
const Format kFormats[] = {
    {"csv", "CSV in a ZIP file", R"(
import io, zipfile
zipped = io.BytesIO()
with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
    z.writestr("member", data)
file = zipfile.ZipFile(zipped).open("member")
)",
     ToCsv, ReadCsv},
    {"parquet", "Parquet in BytesIO", R"(
import io
file = io.BytesIO(data)
)",
     ToParquet, ReadParquet},
};

// --- The board ---

// Written by a child, read by its parent at any time. All zero at first.
struct Board {
  enum Phase { kStarting, kReading, kFinalizing, kJoining, kReturning };

  std::atomic<int> phase;
  std::atomic<int> whole;     // reads in the first pass
  std::atomic<int> equal;     // and they gave the right table
  std::atomic<int> asked;     // reads in the second pass
  std::atomic<int> answered;  // with data
  std::atomic<int> refused;   // Cancelled
  std::atomic<int> failed;    // with another error
  char python[32];
  char message[240];  // what the reader said in the end
  std::atomic<int> has_message;

  void Say(const std::string& text) {
    std::snprintf(message, sizeof message, "%s", text.c_str());
    has_message = 1;
  }
  // Grows with each step that the child makes.
  int Progress() const {
    return phase + whole + asked + answered + refused + failed;
  }
};
static_assert(std::atomic<int>::is_always_lock_free,
              "a lock cannot be shared with another process");

// --- In a child ---

// The same file, with a word before and after each read.
class Watched final : public arrow::io::RandomAccessFile {
 public:
  using Before = std::function<void()>;
  using After = std::function<void(const arrow::Status&)>;
  Watched(ArrowFile file, Before before, After after)
      : file_(std::move(file)),
        before_(std::move(before)),
        after_(std::move(after)) {}

  arrow::Status Close() override { return file_->Close(); }
  bool closed() const override { return file_->closed(); }
  arrow::Result<int64_t> Tell() const override { return file_->Tell(); }
  arrow::Result<int64_t> GetSize() override { return file_->GetSize(); }
  arrow::Status Seek(int64_t position) override {
    return file_->Seek(position);
  }
  arrow::Result<int64_t> Read(int64_t n, void* out) override {
    return Watch([&] { return file_->Read(n, out); });
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(int64_t n) override {
    return Watch([&] { return file_->Read(n); });
  }
  using arrow::io::RandomAccessFile::ReadAt;
  arrow::Result<int64_t> ReadAt(int64_t at, int64_t n, void* out) override {
    return Watch([&] { return file_->ReadAt(at, n, out); });
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(int64_t at,
                                                       int64_t n) override {
    return Watch([&] { return file_->ReadAt(at, n); });
  }

 private:
  template <typename Fn>
  std::invoke_result_t<Fn> Watch(Fn read) {
    before_();
    auto result = read();
    after_(result.status());
    return result;
  }

  const ArrowFile file_;
  const Before before_;
  const After after_;
};

// Lets the first half of the reads through, and the others when it is told to.
class Barrier {
 public:
  explicit Barrier(int half) : half_(half) {}
  void Pass() {
    std::unique_lock lock(mutex_);
    if (++count_ == half_) changed_.notify_all();
    changed_.wait(lock, [&] { return count_ <= half_ || open_; });
  }
  void WaitForHalf() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return count_ >= half_; });
  }
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  const int half_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int count_ = 0;
  bool open_ = false;
};

// Requires: attached. The file that the format's Python code makes.
ArrowFile MakeFile(const Format& format, bool with_pyhold) {
  run_python(format.make);
  PyObject* main = PyImport_AddModule("__main__");
  PyObject* file = PyObject_GetAttrString(main, "file");
  expect(file != nullptr, "Python makes a file");
  ArrowFile made;
  if (with_pyhold)
    made = std::make_shared<PyReadableFile>(pyhold::InterpreterView::Current(),
                                            file);
  else
    made = std::make_shared<GilStateFile>(file);
  Py_DECREF(file);
  return made;
}

int ReadAndFinalize(const Format& format, bool with_pyhold, Board* board) {
  const ArrowTable table = MakeTable(kRows);
  const std::string data = format.write(table);
  start_python();
  const std::string version = Py_GetVersion();
  std::snprintf(board->python, sizeof board->python, "%s",
                version.substr(0, version.find(' ')).c_str());
  PyObject* bytes = PyBytes_FromStringAndSize(
      data.data(), static_cast<Py_ssize_t>(data.size()));
  expect(
      bytes != nullptr && PyModule_AddObjectRef(PyImport_AddModule("__main__"),
                                                "data", bytes) == 0,
      "Python has memory");
  Py_DECREF(bytes);

  auto whole = std::make_shared<Watched>(
      MakeFile(format, with_pyhold), [=] { ++board->whole; },
      [](const arrow::Status&) {});
  Py_BEGIN_ALLOW_THREADS;
  auto got = format.read(std::move(whole));
  board->equal = got.ok() && (*got)->Equals(*table);
  if (!got.ok()) board->Say(got.status().ToString());
  Py_END_ALLOW_THREADS;
  if (!board->equal) return 1;

  board->phase = Board::kReading;
  Barrier barrier(board->whole / 2);
  ArrowFile file = std::make_shared<Watched>(
      MakeFile(format, with_pyhold),
      [board, &barrier] {
        ++board->asked;
        barrier.Pass();
      },
      [board](const arrow::Status& status) {
        ++(status.ok()            ? board->answered
           : status.IsCancelled() ? board->refused
                                  : board->failed);
      });
  std::thread reader([&format, board, file = std::move(file)]() mutable {
    const auto result = format.read(std::move(file));
    board->Say(result.ok() ? "a table" : result.status().ToString());
  });
  Py_BEGIN_ALLOW_THREADS;
  barrier.WaitForHalf();
  Py_END_ALLOW_THREADS;

  board->phase = Board::kFinalizing;
  barrier.Open();
  const int status = Py_FinalizeEx();
  board->phase = Board::kJoining;
  reader.join();
  board->phase = Board::kReturning;  // where Arrow joins its threads
  return status == 0 ? 0 : 1;
}

int ChildMain(const std::string& way, const std::string& format, int board_fd) {
  void* shared = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                      MAP_SHARED, board_fd, 0);
  if (shared == MAP_FAILED) return 1;
  const Format& chosen = kFormats[format == kFormats[0].name ? 0 : 1];
  return ReadAndFinalize(chosen, way == "pyhold", static_cast<Board*>(shared));
}

// --- In the parent ---

struct Child {
  Board* board = nullptr;
  bool started = false;
  bool hung = false;    // and was killed
  int interrupted = 0;  // the signal that ended us, if any
  int wait_status = 0;
  double seconds = 0;
  std::string first_line;  // of its stderr

  bool EndedWith(int status) const {
    return started && !hung && WIFEXITED(wait_status) &&
           WEXITSTATUS(wait_status) == status;
  }
};

// Signals that the parent takes by sigtimedwait() only.
sigset_t OurSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, s);
  return set;
}

// Runs this program as a child, to its end or until it has made no progress for
// `patience_s`.
Child RunChild(const char* way, const Format& format, double patience_s) {
  using std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  Child child;
  const int board_fd = memfd_create("pyhold-demo", 0);
  const int stderr_fd = memfd_create("pyhold-demo-stderr", 0);
  if (stderr_fd < 0 || ftruncate(board_fd, sizeof(Board)) != 0) return child;
  void* shared = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                      MAP_SHARED, board_fd, 0);
  if (shared == MAP_FAILED) return child;
  child.board = static_cast<Board*>(shared);  // for the rest of our life

  const std::string fd_text = std::to_string(board_fd);
  const pid_t parent = getpid();
  const auto start = steady_clock::now();
  const sigset_t ours = OurSignals();
  const pid_t pid = fork();
  if (pid == 0) {
    sigprocmask(SIG_UNBLOCK, &ours, nullptr);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    const rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    dup2(stderr_fd, STDERR_FILENO);
    execl("/proc/self/exe", "demo", "--child", way, format.name,
          fd_text.c_str(), static_cast<char*>(nullptr));
    _exit(1);
  }
  close(board_fd);
  if (pid < 0) return child;
  child.started = true;

  const timespec tick = {0, 100'000'000};
  int progress = -1;
  auto moved = start;
  while (waitpid(pid, &child.wait_status, WNOHANG) == 0) {
    const int signal = sigtimedwait(&ours, nullptr, &tick);
    if (signal == SIGCHLD) continue;
    if (signal > 0) child.interrupted = signal;
    if (child.board->Progress() != progress) {
      progress = child.board->Progress();
      moved = steady_clock::now();
    }
    child.hung = Seconds(steady_clock::now() - moved).count() > patience_s;
    if (child.hung || child.interrupted) {
      kill(pid, SIGKILL);
      waitpid(pid, &child.wait_status, 0);
      break;
    }
  }
  child.seconds = Seconds(steady_clock::now() - start).count();
  char text[256];
  const ssize_t n = pread(stderr_fd, text, sizeof text, 0);
  if (n > 0) child.first_line.assign(text, static_cast<size_t>(n));
  child.first_line.resize(
      std::min(child.first_line.find('\n'), child.first_line.size()));
  close(stderr_fd);
  return child;
}

std::string ProcessText(const Child& child) {
  if (child.hung) {
    switch (child.board->phase) {
      case Board::kFinalizing:
        return "hung in Py_FinalizeEx, killed";
      case Board::kJoining:
        return "hung in join, killed";
      case Board::kReturning:
        return "hung after main(), killed";
      default:
        return "hung, killed";
    }
  }
  if (WIFSIGNALED(child.wait_status))
    return std::string("crashed: ") + strsignal(WTERMSIG(child.wait_status));
  return "ended by itself, status " +
         std::to_string(WEXITSTATUS(child.wait_status));
}

std::string ReaderText(const Child& child) {
  if (!child.board->has_message) return "no answer";
  const std::string message = child.board->message;
  return message.substr(0, message.find(':'));
}

void PrintRow(const char* way, const Format& format, const Child& child) {
  const Board& b = *child.board;
  std::printf("%-17s  %-18s  %-5s %5d %8d %7d %6d %4d  %-9s  %-29s %5.1f s\n",
              way, format.what, b.equal ? "equal" : "wrong", b.asked.load(),
              b.answered.load(), b.refused.load(), b.failed.load(),
              b.asked - b.answered - b.refused - b.failed,
              ReaderText(child).c_str(), ProcessText(child).c_str(),
              child.seconds);
}

int Fail(int status, const std::string& what) {
  std::fprintf(stderr, "demo: %s\n", what.c_str());
  return status;
}

int Demo() {
  const sigset_t ours = OurSignals();
  sigprocmask(SIG_BLOCK, &ours, nullptr);

  constexpr double kPatience_s = 4, kMorePatience_s = 30;
  std::string noted, broken;
  bool first = true;
  for (const bool with_pyhold : {false, true}) {
    const char* name = with_pyhold ? "pyhold" : "PyGILState_Ensure";
    for (const Format& format : kFormats) {
      std::fprintf(stderr, "demo: %s with %s ...\n", format.what, name);
      const Child child = RunChild(with_pyhold ? "pyhold" : "gilstate", format,
                                   with_pyhold ? kMorePatience_s : kPatience_s);
      if (!child.started) return Fail(1, "a child process cannot be started");
      if (child.interrupted) return 128 + child.interrupted;
      const Board& b = *child.board;
      if (b.phase == Board::kStarting && !child.hung)
        return Fail(1, b.has_message               ? b.message
                       : !child.first_line.empty() ? child.first_line
                                                   : ProcessText(child));
      if (first) {
        std::printf(
            "Python %s, Arrow %s, %d I/O threads; Py_FinalizeEx after half of "
            "the reads\n\n",
            b.python, ARROW_VERSION_STRING,
            arrow::io::GetIOThreadPoolCapacity());
        std::printf("%-17s  %-18s  %-5s %5s %8s %7s %6s %4s  %-9s  %-29s %7s\n",
                    "with", "file", "table", "asked", "answered", "refused",
                    "failed", "lost", "reader", "process", "time");
      }
      first = false;
      PrintRow(name, format, child);
      std::fflush(stdout);
      if (noted.empty() && !child.first_line.empty())
        noted =
            std::string("With ") + name + " stderr began: " + child.first_line;
      if (with_pyhold &&
          !(child.EndedWith(0) && b.equal && b.has_message &&
            b.phase == Board::kReturning && b.answered + b.refused == b.asked))
        broken = std::string(format.what) + ": " +
                 (b.has_message ? b.message : ProcessText(child));
    }
  }
  std::printf(
      "\ntable: what the whole file gave, before. lost: asked for, and no "
      "answer ever came.\n");
  if (!noted.empty()) std::printf("%s\n", noted.c_str());
  if (broken.empty()) return 0;
  return Fail(1, "with pyhold not all was as it should be: " + broken);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && std::strcmp(argv[1], "--child") == 0)
    return ChildMain(argv[2], argv[3], std::atoi(argv[4]));
  if (argc > 1) {
    const std::string argument = argv[1];
    if (argument != "--help" && argument != "-h")
      return Fail(kExitBadInput,
                  "unknown argument '" + argument + "' (see --help)");
    std::fputs(kUsage, stdout);
    return 0;
  }
  return Demo();
}
