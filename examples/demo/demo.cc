// Python ends while native threads read files through it.
//
// Eight C++ threads read the members of a ZIP file through Python's zipfile, as
// data libraries read through Python file objects, and check each against the
// CRC-32 in the ZIP's directory. Once half of the files were asked for, the
// main thread calls Py_FinalizeEx. This is done twice, each time in a process
// of its own: with PyGILState_Ensure, and with pyhold. A table shows what
// became of the calls, the threads and the process.
//
// The parent has no Python. It starts children, which are this program again
// with --child, and reads what they note on a shared board: so that it knows
// where a child stands that hangs or has crashed.
#include "examples/embed.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "examples/demo/zip_directory.h"
#include "pyhold/pyhold.h"

namespace {

constexpr char kUsage[] = R"(usage: demo [--zip FILE]

Reads the files in a ZIP file through Python on 8 threads, and finalizes the
interpreter once half of them were asked for: first with PyGILState_Ensure, then
with pyhold. Prints what became of each.

  --zip FILE   read this ZIP file; without it, one is made of the .py files of
               Python's standard library
  --help       print this

The environment variable PYTHON_BIN_PATH names the interpreter of the Python
that this program is linked with.

Exit status: 0  with pyhold each file was read right or refused, all threads
                were joined and the process ended by itself
             1  it was not so, or Python could not be run
             2  the arguments or the ZIP file are not usable
)";

constexpr int kThreads = 8;
constexpr int kExitBadInput = 2;

// --- The board ---

// Written by a child, read by its parent at any time. All zero at first.
struct Board {
  enum Phase { kStarting, kReading, kFinalizing, kJoining, kDone };
  enum ThreadIs { kNotStarted, kRunning, kReturned, kEnded };

  std::atomic<int> phase;
  std::atomic<int> asked;       // files that a thread wanted to read
  std::atomic<int> verified;    // read, with the right size and checksum
  std::atomic<int> refused;     // the guard said that the interpreter ends
  std::atomic<int> raised;      // Python raised an exception
  std::atomic<int> wrong;       // read, but not what the directory says
  std::atomic<int> slowest_ms;  // of one read in the check
  struct {
    std::atomic<int> is;   // a ThreadIs
    std::atomic<int> tid;  // as in /proc/PID/task
  } threads[kThreads];
  char python[32];

  // What went wrong first. Whole once `has_message` is 2.
  std::atomic<int> has_message;
  char message[480];

  void Say(const std::string& text) {
    int none = 0;
    if (!has_message.compare_exchange_strong(none, 1)) return;
    std::snprintf(message, sizeof message, "%s", text.c_str());
    has_message = 2;
  }
  std::string Message() const {
    return has_message == 2 ? message : "no reason given";
  }
  // Grows with each step that the child makes.
  int Progress() const {
    return phase + asked + verified + refused + raised + wrong;
  }
};
static_assert(std::atomic<int>::is_always_lock_free,
              "a lock cannot be shared with another process");

// --- In a child: Python's side ---

// "ValueError: text" for the pending exception, which is cleared.
std::string TakePythonError() {
#if PY_VERSION_HEX >= 0x030C0000
  PyObject* error = PyErr_GetRaisedException();
#else
  PyObject *type, *error, *traceback;
  PyErr_Fetch(&type, &error, &traceback);
  PyErr_NormalizeException(&type, &error, &traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
#endif
  if (error == nullptr) return "no exception";
  std::string what = Py_TYPE(error)->tp_name;
  PyObject* text = PyObject_Str(error);
  const char* utf8 = text != nullptr ? PyUnicode_AsUTF8(text) : nullptr;
  if (utf8 != nullptr && *utf8 != '\0') what = what + ": " + utf8;
  PyErr_Clear();
  Py_XDECREF(text);
  Py_DECREF(error);
  return what;
}

// Runs `code` in __main__, where `zip_path` is the path of the ZIP file.
// False, with a Python exception: it failed.
bool RunCode(const char* code, const std::string& zip_path) {
  PyObject* globals = PyModule_GetDict(PyImport_AddModule("__main__"));
  PyObject* path = PyUnicode_DecodeFSDefault(zip_path.c_str());
  if (path == nullptr || PyDict_SetItemString(globals, "zip_path", path) < 0) {
    Py_XDECREF(path);
    return false;
  }
  Py_DECREF(path);
  PyObject* result = PyRun_String(code, Py_file_input, globals, globals);
  Py_XDECREF(result);
  return result != nullptr;
}

constexpr char kMakeZip[] = R"(
import os, zipfile
root = os.path.dirname(os.__file__)
with zipfile.ZipFile(zip_path, "w", zipfile.ZIP_DEFLATED, compresslevel=1,
                     strict_timestamps=False) as made:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - {"site-packages", "dist-packages"})
        for name in sorted(files):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                made.write(path, os.path.relpath(path, root))
    if not made.namelist():
        raise FileNotFoundError(f"no .py files in {root}")
)";

constexpr char kOpenZip[] = R"(
import zipfile
archive = zipfile.ZipFile(zip_path)
members = archive.infolist()
)";

// An open zipfile.ZipFile, and the list of its members. Both belong to
// __main__, and so last as long as the interpreter.
struct Archive {
  PyObject* zipfile = nullptr;
  PyObject* members = nullptr;
};

// Requires: attached. Opens `path` in Python, and reads its directory without.
bool OpenArchive(const std::string& path, Board* board, Archive* archive,
                 std::vector<ZipMember>* expected) {
  std::string error = ReadZipDirectory(path, expected);
  if (error.empty() && !RunCode(kOpenZip, path))
    error = "Python cannot open it: " + TakePythonError();
  if (error.empty()) {
    PyObject* globals = PyModule_GetDict(PyImport_AddModule("__main__"));
    archive->zipfile = PyDict_GetItemString(globals, "archive");
    archive->members = PyDict_GetItemString(globals, "members");
    if (PyList_Size(archive->members) !=
        static_cast<Py_ssize_t>(expected->size()))
      error = "broken: Python finds another number of members";
  }
  if (!error.empty()) board->Say(error);
  return error.empty();
}

// Requires: attached. archive.open(member).read() as a bytes object; null,
// with a Python exception, if that failed. The member is given as a ZipInfo,
// because names may occur twice.
PyObject* ReadMember(const Archive& archive, std::size_t index) {
  PyObject* member =
      PyList_GetItem(archive.members, static_cast<Py_ssize_t>(index));
  PyObject* file = member != nullptr ? PyObject_CallMethod(archive.zipfile,
                                                           "open", "O", member)
                                     : nullptr;
  if (file == nullptr) return nullptr;
  PyObject* data = PyObject_CallMethod(file, "read", nullptr);
  Py_DECREF(file);  // which closes it
  if (data != nullptr && !PyBytes_Check(data)) {
    PyErr_SetString(PyExc_TypeError, "read() gave no bytes");
    Py_CLEAR(data);
  }
  return data;
}

// Attached or not: a bytes object never changes, and the caller owns it.
bool IsWhatWasExpected(PyObject* bytes, const ZipMember& expected) {
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(bytes));
  return size == expected.size &&
         Crc32(PyBytes_AS_STRING(bytes), size) == expected.crc32;
}

// For messages: control characters and the like become '?'.
std::string Printable(std::string name) {
  for (char& c : name)
    if (c < ' ' || c > '~') c = '?';
  return name;
}

// --- In a child: the two ways of a thread to Python, side by side ---

void ReadWithPyhold(const pyhold::InterpreterView& view, const Archive& archive,
                    const ZipMember& expected, std::size_t index,
                    Board* board) {
  pyhold::ThreadStateGuard guard(view);
  if (guard.status() == PYHOLD_EFINALIZING) {
    ++board->refused;
    return;
  }
  PyObject* bytes = guard ? ReadMember(archive, index) : nullptr;
  if (bytes == nullptr) {
    board->Say(
        Printable(expected.name) + ": " +
        (guard ? TakePythonError() : pyhold_status_message(guard.status())));
    ++board->raised;
    return;
  }
  bool good;
  {
    pyhold::ThreadStateDetachGuard detached;  // others may use Python
    good = IsWhatWasExpected(bytes, expected);
  }
  Py_DECREF(bytes);
  ++(good ? board->verified : board->wrong);
}

void ReadWithGilState(const Archive& archive, const ZipMember& expected,
                      std::size_t index, Board* board) {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyObject* bytes = ReadMember(archive, index);
  if (bytes == nullptr) {
    board->Say(Printable(expected.name) + ": " + TakePythonError());
    PyGILState_Release(gil);
    ++board->raised;
    return;
  }
  bool good;
  Py_BEGIN_ALLOW_THREADS;
  good = IsWhatWasExpected(bytes, expected);
  Py_END_ALLOW_THREADS;
  Py_DECREF(bytes);
  PyGILState_Release(gil);
  ++(good ? board->verified : board->wrong);
}

// --- In a child: the pool ---

// The files that the pool is to read, which become available in two parts.
class Queue {
 public:
  Queue(std::vector<std::size_t> files, Board* board)
      : files_(std::move(files)), board_(board) {}

  std::size_t size() const { return files_.size(); }

  // Makes the first `count` files available.
  void Offer(std::size_t count) {
    std::lock_guard<std::mutex> lock(mutex_);
    offered_ = count;
    changed_.notify_all();
  }
  // Waits for a file. False: all were taken.
  bool Take(std::size_t* file) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock,
                  [&] { return taken_ < offered_ || taken_ == files_.size(); });
    if (taken_ == files_.size()) return false;
    *file = files_[taken_++];
    ++board_->asked;
    changed_.notify_all();
    return true;
  }
  void WaitUntilTaken(std::size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return taken_ >= count; });
  }

 private:
  const std::vector<std::size_t> files_;
  Board* const board_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t offered_ = 0, taken_ = 0;
};

// Notes how a pool's thread ends: that it returned, or was ended from within
// a call to Python, as CPython did before 3.13.8.
class ThreadNote {
 public:
  explicit ThreadNote(Board* board, int thread)
      : note_(board->threads[thread]) {
    note_.tid = static_cast<int>(syscall(SYS_gettid));
    note_.is = Board::kRunning;
  }
  ~ThreadNote() { note_.is = returned_ ? Board::kReturned : Board::kEnded; }
  ThreadNote(const ThreadNote&) = delete;
  ThreadNote& operator=(const ThreadNote&) = delete;
  void Returns() { returned_ = true; }

 private:
  decltype(*Board::threads)& note_;
  bool returned_ = false;
};

// The files, without the folders.
std::vector<std::size_t> FilesAmong(const std::vector<ZipMember>& members) {
  std::vector<std::size_t> files;
  for (std::size_t i = 0; i < members.size(); ++i)
    if (members[i].name.empty() || members[i].name.back() != '/')
      files.push_back(i);
  return files;
}

bool StartPython(Board* board) {
  const char* error = try_start_python();
  if (error != nullptr) {
    board->Say(std::string("Python does not start: ") + error);
    return false;
  }
  std::string version = Py_GetVersion();
  std::snprintf(board->python, sizeof board->python, "%s",
                version.substr(0, version.find(' ')).c_str());
  return true;
}

int ReadAndFinalize(const std::string& zip, bool with_pyhold, Board* board) {
  if (!StartPython(board)) return 1;
  Archive archive;
  std::vector<ZipMember> expected;
  if (!OpenArchive(zip, board, &archive, &expected)) return kExitBadInput;

  pyhold::InterpreterView view;
  if (with_pyhold) {
    view = pyhold::InterpreterView::Current();
    // Should anything hold the interpreter for long, say so before the parent
    // loses its patience.
    pyhold_wait_policy policy = {};
    policy.warn_after_ms = 3000;
    pyhold_set_wait_policy(&policy);
  }

  Queue queue(FilesAmong(expected), board);
  std::vector<std::thread> pool;
  for (int t = 0; t < kThreads; ++t) {
    pool.emplace_back([&, t] {
      ThreadNote note(board, t);
      std::size_t file;
      while (queue.Take(&file)) {
        if (with_pyhold)
          ReadWithPyhold(view, archive, expected[file], file, board);
        else
          ReadWithGilState(archive, expected[file], file, board);
      }
      note.Returns();
    });
  }

  board->phase = Board::kReading;
  const std::size_t half = (queue.size() + 1) / 2;
  Py_BEGIN_ALLOW_THREADS;
  queue.Offer(half);
  queue.WaitUntilTaken(half);  // taken, not read: threads are in the middle
  Py_END_ALLOW_THREADS;
  board->phase = Board::kFinalizing;
  queue.Offer(queue.size());
  int status = Py_FinalizeEx();

  board->phase = Board::kJoining;
  for (std::thread& thread : pool) thread.join();
  board->phase = Board::kDone;
  if (status != 0) board->Say("Py_FinalizeEx failed");
  return status == 0 ? 0 : 1;
}

// Makes the ZIP file if that is asked for; and reads all of it on one thread,
// so that a damaged member is known before, and not taken for a fault of what
// comes next.
int MakeAndCheck(const std::string& zip, bool make, Board* board) {
  if (!StartPython(board)) return 1;
  if (make && !RunCode(kMakeZip, zip)) {
    board->Say("the ZIP file cannot be made: " + TakePythonError());
    return 1;
  }
  Archive archive;
  std::vector<ZipMember> expected;
  if (!OpenArchive(zip, board, &archive, &expected)) return kExitBadInput;
  board->phase = Board::kReading;
  for (std::size_t i : FilesAmong(expected)) {
    auto start = std::chrono::steady_clock::now();
    ++board->asked;
    PyObject* bytes = ReadMember(archive, i);
    bool good = bytes != nullptr && IsWhatWasExpected(bytes, expected[i]);
    if (!good) {
      board->Say("broken: " + Printable(expected[i].name) + ": " +
                 (bytes == nullptr ? TakePythonError()
                                   : "not what the directory says"));
      return kExitBadInput;
    }
    Py_DECREF(bytes);
    std::chrono::duration<double, std::milli> took =
        std::chrono::steady_clock::now() - start;
    board->slowest_ms =
        std::max<int>(board->slowest_ms, static_cast<int>(took.count()));
  }
  board->phase = Board::kFinalizing;
  Py_FinalizeEx();
  board->phase = Board::kDone;
  return 0;
}

int ChildMain(const std::string& mode, const std::string& zip, int board_fd) {
  void* shared = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                      MAP_SHARED, board_fd, 0);
  if (shared == MAP_FAILED) return 1;
  auto* board = static_cast<Board*>(shared);
  if (mode == "make" || mode == "check")
    return MakeAndCheck(zip, mode == "make", board);
  return ReadAndFinalize(zip, mode == "pyhold", board);
}

// --- In the parent ---

// Signals that the parent takes by sigtimedwait() only.
sigset_t OurSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, s);
  return set;
}

// Thread ids of the process that are still there, and whether all sleep.
struct Tasks {
  std::vector<int> tids;
  bool all_asleep = true;
};
Tasks TasksOf(pid_t pid) {
  Tasks tasks;
  const std::string folder = "/proc/" + std::to_string(pid) + "/task/";
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return tasks;
  while (dirent* entry = readdir(dir)) {
    const int tid = std::atoi(entry->d_name);
    if (tid <= 0) continue;
    std::string stat;
    std::getline(std::ifstream(folder + entry->d_name + "/stat"), stat);
    const std::size_t name_end = stat.rfind(')');
    if (name_end == std::string::npos || name_end + 2 >= stat.size()) continue;
    const char state = stat[name_end + 2];
    if (state != 'Z' && state != 'X') tasks.tids.push_back(tid);
    if (state == 'R' || state == 'D') tasks.all_asleep = false;
  }
  closedir(dir);
  return tasks;
}

struct Child {
  Board* board = nullptr;
  bool started = false;
  bool hung = false;    // and was killed
  int interrupted = 0;  // the signal that ended us, if any
  int wait_status = 0;
  double seconds = 0;
  int threads_hung = 0, threads_died = 0, threads_joined = 0;

  bool EndedWith(int status) const {
    return started && !hung && !interrupted && WIFEXITED(wait_status) &&
           WEXITSTATUS(wait_status) == status;
  }
};

// What became of the pool's threads. `tids`: those that are there still.
void CountThreads(const std::vector<int>& tids, Child* child) {
  for (const auto& thread : child->board->threads) {
    const bool there =
        std::find(tids.begin(), tids.end(), thread.tid) != tids.end();
    switch (thread.is) {
      case Board::kNotStarted:
        break;
      case Board::kReturned:
        ++child->threads_joined;
        break;
      case Board::kRunning:
        ++(there ? child->threads_hung : child->threads_died);
        break;
      default:
        ++child->threads_died;
    }
  }
}

// Runs this program as a child, to its end or until it hangs: that is, until
// it has made no progress for `patience_s` while all its threads slept.
// (While some thread runs or waits for a CPU, patience is 20 times as long.)
Child RunChild(const char* mode, const std::string& zip, double patience_s,
               const std::string& stderr_path = "") {
  Child child;
  const int board_fd = memfd_create("pyhold-demo", 0);
  if (board_fd < 0 || ftruncate(board_fd, sizeof(Board)) != 0) return child;
  void* shared = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                      MAP_SHARED, board_fd, 0);
  if (shared == MAP_FAILED) return child;
  child.board = static_cast<Board*>(shared);  // for the rest of our life

  const std::string fd_text = std::to_string(board_fd);
  const pid_t parent = getpid();
  const auto start = std::chrono::steady_clock::now();
  const pid_t pid = fork();
  if (pid == 0) {
    sigset_t ours = OurSignals();
    sigprocmask(SIG_UNBLOCK, &ours, nullptr);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    const rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    if (!stderr_path.empty()) {
      int fd = open(stderr_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      if (fd >= 0) dup2(fd, STDERR_FILENO);
    }
    execl("/proc/self/exe", "demo", "--child", mode, zip.c_str(),
          fd_text.c_str(), static_cast<char*>(nullptr));
    _exit(1);
  }
  close(board_fd);
  if (pid < 0) return child;
  child.started = true;

  const sigset_t ours = OurSignals();
  constexpr double kTick = 0.1;
  const timespec tick = {0, static_cast<long>(kTick * 1e9)};
  double still = 0;  // in ticks, so that a stopped process costs no patience
  int progress = -1;
  while (waitpid(pid, &child.wait_status, WNOHANG) == 0) {
    const int signal = sigtimedwait(&ours, nullptr, &tick);
    if (signal == SIGCHLD) continue;
    const Tasks tasks = TasksOf(pid);
    if (signal > 0) {
      child.interrupted = signal;
    } else if (child.board->Progress() != progress) {
      progress = child.board->Progress();
      still = 0;
    } else {
      still += tasks.all_asleep ? kTick : kTick / 20;
    }
    if (child.interrupted || still > patience_s) {
      child.hung = !child.interrupted;
      CountThreads(tasks.tids, &child);
      kill(pid, SIGKILL);
      waitpid(pid, &child.wait_status, 0);
      break;
    }
  }
  if (!child.hung) CountThreads({}, &child);
  child.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  return child;
}

int Lost(const Board& b) {
  return b.asked - b.verified - b.refused - b.raised - b.wrong;
}

std::string ThreadsText(const Child& child) {
  std::string text;
  auto add = [&](int count, const char* what) {
    if (count == 0) return;
    if (!text.empty()) text += ", ";
    text += std::to_string(count) + " " + what;
  };
  add(child.threads_hung, "hung");
  add(child.threads_died, "died");
  add(child.threads_joined,
      child.board->phase == Board::kDone ? "joined" : "returned");
  return text.empty() ? "none" : text;
}

std::string ProcessText(const Child& child) {
  if (child.hung) {
    switch (child.board->phase) {
      case Board::kFinalizing:
        return "hung in Py_FinalizeEx, killed";
      case Board::kJoining:
        return "hung in join, killed";
      default:
        return "hung, killed";
    }
  }
  if (WIFSIGNALED(child.wait_status))
    return std::string("crashed: ") + strsignal(WTERMSIG(child.wait_status));
  return "ended by itself, status " +
         std::to_string(WEXITSTATUS(child.wait_status));
}

void PrintRow(const char* name, const Child& child) {
  const Board& b = *child.board;
  std::printf("%-17s %5d %8d %7d %6d %5d %4d  %-18s  %-29s %6.1f s\n", name,
              b.asked.load(), b.verified.load(), b.refused.load(),
              b.raised.load(), b.wrong.load(), Lost(b),
              ThreadsText(child).c_str(), ProcessText(child).c_str(),
              child.seconds);
}

// A folder for this run, removed with what is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const char* base = std::getenv("TMPDIR");
    path_ = std::string(base != nullptr && *base != '\0' ? base : "/tmp") +
            "/pyhold-demo-XXXXXX";
    if (mkdtemp(&path_[0]) == nullptr) path_.clear();
  }
  ~TemporaryFolder() {
    if (path_.empty()) return;
    unlink(zip().c_str());
    unlink(log().c_str());
    rmdir(path_.c_str());
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  bool ok() const { return !path_.empty(); }
  std::string zip() const { return path_ + "/stdlib.zip"; }
  std::string log() const { return path_ + "/stderr"; }

 private:
  std::string path_;
};

int Fail(int status, const std::string& what) {
  std::fprintf(stderr, "demo: %s\n", what.c_str());
  return status;
}

int Demo(const std::string& given_zip) {
  const sigset_t ours = OurSignals();
  sigprocmask(SIG_BLOCK, &ours, nullptr);
  TemporaryFolder folder;
  if (!folder.ok())
    return Fail(1, std::string("no temporary folder: ") + std::strerror(errno));

  const std::string zip = given_zip.empty() ? folder.zip() : given_zip;
  std::vector<ZipMember> members;
  if (!given_zip.empty()) {
    std::string error = ReadZipDirectory(zip, &members);
    if (!error.empty()) return Fail(kExitBadInput, zip + ": " + error);
  }
  std::fprintf(stderr, "demo: %s\n",
               given_zip.empty()
                   ? "making a ZIP file of Python's standard library ..."
                   : "checking the ZIP file ...");
  // Patience: making the ZIP file is one step, and may take long.
  Child check = RunChild(given_zip.empty() ? "make" : "check", zip, 60);
  if (!check.started) return Fail(1, "a child process cannot be started");
  if (check.interrupted) return 128 + check.interrupted;
  if (check.EndedWith(kExitBadInput))
    return Fail(kExitBadInput, zip + ": " + check.board->Message());
  if (!check.EndedWith(0))
    return Fail(1, check.board->has_message
                       ? check.board->Message()
                       : "the check of the ZIP file " + ProcessText(check));
  std::string error = ReadZipDirectory(zip, &members);
  if (!error.empty()) return Fail(kExitBadInput, zip + ": " + error);
  const int files = static_cast<int>(FilesAmong(members).size());

  const double patience_s = 5 + kThreads * 2 * check.board->slowest_ms / 1000.0;
  std::fprintf(stderr, "demo: reading with PyGILState_Ensure ...\n");
  Child gilstate = RunChild("gilstate", zip, patience_s, folder.log());
  if (!gilstate.started) return Fail(1, "a child process cannot be started");
  if (gilstate.interrupted) return 128 + gilstate.interrupted;
  std::fprintf(stderr, "demo: reading with pyhold ...\n");
  Child pyhold = RunChild("pyhold", zip, patience_s);
  if (!pyhold.started) return Fail(1, "a child process cannot be started");
  if (pyhold.interrupted) return 128 + pyhold.interrupted;

  std::printf(
      "Python %s, %d threads, %d files; Py_FinalizeEx once %d were asked "
      "for\n\n",
      check.board->python, kThreads, files, (files + 1) / 2);
  std::printf("%-17s %5s %8s %7s %6s %5s %4s  %-18s  %-29s %8s\n", "with",
              "asked", "verified", "refused", "raised", "wrong", "lost",
              "threads", "process", "time");
  PrintRow("PyGILState_Ensure", gilstate);
  PrintRow("pyhold", pyhold);
  std::printf(
      "\nlost: asked for, and no answer ever came. A file that no thread was "
      "left to\nask for is not counted.\n");
  if (gilstate.board->raised > 0)
    std::printf("With PyGILState_Ensure Python raised first: %s\n",
                gilstate.board->Message().c_str());
  std::string line;
  std::ifstream log(folder.log());
  while (line.empty() && std::getline(log, line)) continue;
  if (!line.empty())
    std::printf("With PyGILState_Ensure stderr began: %s\n", line.c_str());

  const Board& b = *pyhold.board;
  if (pyhold.EndedWith(0) && b.phase == Board::kDone && b.asked == files &&
      b.verified + b.refused == files && pyhold.threads_joined == kThreads)
    return 0;
  return Fail(1, "with pyhold not all was as it should be" +
                     (b.has_message ? ": " + b.Message() : std::string()));
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() == 4 && args[0] == "--child")
    return ChildMain(args[1], args[2], std::atoi(args[3].c_str()));

  std::string zip;
  for (std::size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--help" || args[i] == "-h") {
      std::fputs(kUsage, stdout);
      return 0;
    }
    if (args[i] == "--zip" && i + 1 < args.size()) {
      zip = args[++i];
    } else if (args[i].rfind("--zip=", 0) == 0) {
      zip = args[i].substr(6);
    } else if (args[i] == "--zip") {
      return Fail(kExitBadInput, "--zip needs a file (see --help)");
    } else {
      return Fail(kExitBadInput,
                  "unknown argument '" + args[i] + "' (see --help)");
    }
    if (zip.empty())
      return Fail(kExitBadInput, "--zip needs a file (see --help)");
  }
  return Demo(zip);
}
