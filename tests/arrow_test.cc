// Arrow's readers over Python files: see examples/arrow.
#include "tests/support/python.h"
//
#include <arrow/buffer.h>
#include <arrow/io/interfaces.h>
#include <arrow/io/memory.h>
#include <arrow/table.h>
#include <arrow/util/thread_pool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <future>
#include <iostream>
#include <latch>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "examples/arrow/gilstate_file.h"
#include "examples/arrow/py_readable_file.h"
#include "examples/arrow/tables.h"
#include "gtest/gtest.h"
#include "tests/support/child.h"

namespace {

using arrow::Result;
using arrow::Status;
using pyhold::InterpreterView;

enum Way { kGilState, kPyhold };

// Makes a function of __main__ that calls `function`.
void DefineFunction(const char* name, PyCFunction function) {
  static std::list<PyMethodDef> definitions;  // the functions point to them
  definitions.push_back({name, function, METH_NOARGS, nullptr});
  PyObject* made = PyCFunction_New(&definitions.back(), nullptr);
  REQUIRE(PyModule_AddObjectRef(PyImport_AddModule("__main__"), name, made) ==
          0);
  Py_DECREF(made);
}

// Makes a bytes object of __main__.
void DefineBytes(const char* name, const std::string& data) {
  PyObject* bytes = PyBytes_FromStringAndSize(
      data.data(), static_cast<Py_ssize_t>(data.size()));
  REQUIRE(PyModule_AddObjectRef(PyImport_AddModule("__main__"), name, bytes) ==
          0);
  Py_DECREF(bytes);
}

// The value of a Python expression, which makes a file, for Arrow.
ArrowFile FileOf(const std::string& expression, Way way = kPyhold) {
  PyObject* globals = PyModule_GetDict(PyImport_AddModule("__main__"));
  PyObject* file =
      PyRun_String(expression.c_str(), Py_eval_input, globals, globals);
  if (file == nullptr) PyErr_Print();
  REQUIRE(file != nullptr);
  ArrowFile made;
  if (way == kPyhold)
    made = std::make_shared<PyReadableFile>(InterpreterView::Current(), file);
  else
    made = std::make_shared<GilStateFile>(file);
  Py_DECREF(file);
  return made;
}

// Starts Python, with ways to make files of bytes.
void StartPythonWithFiles() {
  StartPython();
  Exec(R"(
import io, os, tempfile, zipfile
def in_zip(data):
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", data)
    return zipfile.ZipFile(zipped).open("member")
def on_disk(data, buffering=-1):
    file = tempfile.TemporaryFile(buffering=buffering)
    file.write(data)
    file.seek(0)
    return file
class Broken(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > len(self.getbuffer()) // 2:
            raise OSError("the disk is full of sand")
        return super().read(size)
)");
}

std::string ToString(const Result<ArrowTable>& table) {
  return table.ok() ? "a table" : table.status().ToString();
}

// --- Reading ---

SCENARIO(ReadersReadAsTheyDoNatively) {
  const ArrowTable table = MakeTable(20000);
  const std::string csv = ToCsv(table), parquet = ToParquet(table);
  const auto native = [](const std::string& data) {
    return std::make_shared<arrow::io::BufferReader>(
        arrow::Buffer::FromString(data));
  };
  const ArrowTable native_csv = ReadCsv(native(csv)).ValueOrDie();
  const ArrowTable native_parquet = ReadParquet(native(parquet)).ValueOrDie();
  REQUIRE(native_csv->Equals(*table));
  REQUIRE(native_parquet->Equals(*table));

  StartPythonWithFiles();
  DefineBytes("csv", csv);
  DefineBytes("parquet", parquet);
  for (const std::string make :
       {"in_zip(%)", "io.BytesIO(%)", "on_disk(%)", "on_disk(%, 0)"}) {
    const auto of = [&](const char* what) {
      return FileOf(std::string(make).replace(make.find('%'), 1, what));
    };
    const ArrowFile csv_file = of("csv"), parquet_file = of("parquet");
    pyhold::ThreadStateDetachGuard detached;
    const auto from_csv = ReadCsv(csv_file);
    const auto from_parquet = ReadParquet(parquet_file);
    printf("%s: %s, %s\n", make.c_str(), ToString(from_csv).c_str(),
           ToString(from_parquet).c_str());
    REQUIRE(from_csv.ok() && (*from_csv)->Equals(*native_csv));
    REQUIRE(from_parquet.ok() && (*from_parquet)->Equals(*native_parquet));
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}

TEST(ArrowTest, ReadersReadAsTheyDoNatively) {
  EXPECT_EQ(RunChild("ReadersReadAsTheyDoNatively"), Clean());
}

SCENARIO(FileDoesWhatItIsAskedTo) {
  StartPythonWithFiles();
  const ArrowFile file = FileOf("io.BytesIO(bytes(range(100)))");
  REQUIRE(file->GetSize().ValueOrDie() == 100);
  REQUIRE(file->Seek(10).ok());
  REQUIRE(file->GetSize().ValueOrDie() == 100);
  REQUIRE(file->Tell().ValueOrDie() == 10);
  unsigned char bytes[8];
  REQUIRE(file->Read(8, bytes).ValueOrDie() == 8);
  REQUIRE(bytes[0] == 10 && bytes[7] == 17);
  REQUIRE(file->Tell().ValueOrDie() == 18);
  REQUIRE(file->ReadAt(97, 8, bytes).ValueOrDie() == 3);
  REQUIRE(bytes[0] == 97 && bytes[2] == 99);
  REQUIRE(file->ReadAt(98, 8).ValueOrDie()->ToString() == "bc");  // 98, 99
  REQUIRE(file->Read(8).ValueOrDie()->size() == 0);
  REQUIRE(file->ReadAt(-1, 1).status().IsInvalid());
  REQUIRE(!file->closed());
  REQUIRE(file->Close().ok());
  REQUIRE(file->closed());
  REQUIRE(file->Read(1).status().ToString().find("closed") !=
          std::string::npos);

  REQUIRE(FileOf("io.StringIO('text')")->Read(1).status().IsTypeError());
  Exec(R"(
class Generous(io.BytesIO):
    def read(self, size=-1): return b"x" * (size + 1)
class Other(io.BytesIO):
    def read(self, size=-1): return bytearray(b"another")[:size]
)");
  REQUIRE(FileOf("Generous()")->Read(8, bytes).status().IsInvalid());
  REQUIRE(FileOf("Generous()")->Read(8).status().IsInvalid());
  REQUIRE(FileOf("Other()")->Read(8).ValueOrDie()->ToString() == "another");
  REQUIRE(FileOf("object()")->GetSize().status().ToString().find("tell") !=
          std::string::npos);
  REQUIRE(PyErr_Occurred() == nullptr);
  return 0;
}

TEST(ArrowTest, FileDoesWhatItIsAskedTo) {
  EXPECT_EQ(RunChild("FileDoesWhatItIsAskedTo"), Clean());
}

// Threads that are attached and threads that are not read one file. Fails, or
// hangs, if they share its position without a lock, or wait for that lock with
// the GIL in hand.
SCENARIO(ThreadsShareAFile) {
  StartPythonWithFiles();
  constexpr int kThreads = 8, kReads = 200, kBlock = 512;
  std::string data;
  for (int block = 0; block < 64; ++block)
    data += std::string(kBlock, static_cast<char>(block));
  DefineBytes("data", data);
  Exec(R"(
class Slow(io.BytesIO):
    def seek(self, *args): os.sched_yield(); return super().seek(*args)
    def read(self, size=-1): os.sched_yield(); return super().read(size)
)");
  const InterpreterView view = InterpreterView::Current();
  const ArrowFile file = FileOf("Slow(data)");
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kReads; ++i) {
        const int block = (t * 31 + i * 7) % 64;
        std::string got(kBlock, '\xff');
        const auto read = [&] {
          if (i % 2 == 0) {
            (void)file->ReadAt(block * kBlock, kBlock, got.data());
          } else {
            got = file->ReadAt(block * kBlock, kBlock).ValueOrDie()->ToString();
          }
        };
        if (t % 2 == 0) {
          pyhold::ThreadStateGuard guard(view);
          REQUIRE(guard);
          read();
        } else {
          read();
        }
        good += got == std::string(kBlock, static_cast<char>(block));
      }
    });
  }
  {
    pyhold::ThreadStateDetachGuard detached;
    for (std::thread& thread : threads) thread.join();
  }
  REQUIRE(good == kThreads * kReads);
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}

TEST(ArrowTest, ThreadsShareAFile) {
  EXPECT_EQ(RunChild("ThreadsShareAFile", 0, 60), Clean());
}

// --- Errors ---

SCENARIO(ExceptionComesBack) {
  const ArrowTable table = MakeTable(20000);
  StartPythonWithFiles();
  DefineBytes("csv", ToCsv(table));
  DefineBytes("parquet", ToParquet(table));
  // Parquet begins at the end: its second half is what can be read.
  Exec(R"(
class BrokenAtFirst(io.BytesIO):
    def read(self, size=-1):
        if self.tell() < len(self.getbuffer()) // 2:
            raise OSError("the disk is full of sand")
        return super().read(size)
)");
  for (const bool parquet : {false, true}) {
    const ArrowFile file =
        FileOf(parquet ? "BrokenAtFirst(parquet)" : "Broken(csv)");
    Status status;
    {
      pyhold::ThreadStateDetachGuard detached;
      status = (parquet ? ReadParquet(file) : ReadCsv(file)).status();
    }
    printf("%s\n", status.ToString().c_str());
    REQUIRE(status.IsIOError());
    REQUIRE(status.message().find("OSError: the disk is full of sand") !=
            std::string::npos);
    REQUIRE(pyhold::RestorePyError(status) == PYHOLD_OK);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    REQUIRE(type == PyExc_OSError && traceback != nullptr);
    PyObject* main = PyImport_AddModule("__main__");
    REQUIRE(PyModule_AddObjectRef(main, "traceback", traceback) == 0);
    REQUIRE(PyModule_AddObjectRef(main, "error", value) == 0);
    Exec(R"(
assert str(error) == "the disk is full of sand"
frame = traceback.tb_frame
assert frame.f_code.co_name == "read"
assert isinstance(frame.f_locals["self"], io.BytesIO)
del traceback, error, frame
)");
    Py_DECREF(type);
    Py_DECREF(value);
    Py_DECREF(traceback);
  }
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}

TEST(ArrowTest, ExceptionComesBackWithItsTraceback) {
  EXPECT_EQ(RunChild("ExceptionComesBack"), Clean());
}

Status kept;

PyObject* RaiseKept(PyObject*, PyObject*) {
  REQUIRE(pyhold::RestorePyError(kept) == PYHOLD_OK);
  return nullptr;
}

SCENARIO(StatusIsRaisedManyTimes) {
  StartPythonWithFiles();
  kept = FileOf("Broken(bytes(100))")->ReadAt(90, 1).status();
  DefineFunction("raise_kept", RaiseKept);
  Exec(R"(
import traceback
def caught():
    try: raise_kept()
    except OSError as error: return error
def text(error): return "".join(traceback.format_exception(error))
first = text(caught())
assert first.count("in caught") == first.count("in read") == 1, first
for i in range(100):
    error = caught()
    assert text(error) == first, text(error)
    error.add_note("of a handler")
del error
)");
  kept = Status::OK();
  REQUIRE(Py_FinalizeEx() == 0);
  return 0;
}

TEST(ArrowTest, StatusIsRaisedManyTimesAsItWas) {
  EXPECT_EQ(RunChild("StatusIsRaisedManyTimes"), Clean());
}

// --- Python ends ---

std::latch in_the_middle{1};  // a reader is inside of Python's read()
std::latch ending{1};         // Python ends

PyObject* ReadUntilTheEnd(PyObject*, PyObject*) {
  Py_BEGIN_ALLOW_THREADS;
  in_the_middle.count_down();
  ending.wait();
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}
PyObject* TheEnd(PyObject*, PyObject*) {
  ending.count_down();
  Py_RETURN_NONE;
}

// A file whose third block takes until Python ends: until an atexit callback
// that runs before pyhold's.
ArrowFile LastingFile(Way way, const std::string& data) {
  if (way == kPyhold) (void)InterpreterView::Current();  // makes the gate
  DefineBytes("data", data);
  DefineFunction("read_until_the_end", ReadUntilTheEnd);
  DefineFunction("the_end", TheEnd);
  Exec(R"(
import atexit
atexit.register(the_end)
class Lasting(io.BytesIO):
    reads = 0
    def read(self, size=-1):
        self.reads += 1
        if self.reads == 3: read_until_the_end()
        return super().read(size)
)");
  return FileOf("Lasting(data)", way);
}

void WaitUntilInTheMiddle() {
  Py_BEGIN_ALLOW_THREADS;
  in_the_middle.wait();
  Py_END_ALLOW_THREADS;
}

// Py_FinalizeEx while a reader reads; then its answer.
SCENARIO(FinalizesAndJoins) {
  const Way way = argument % 2 == 0 ? kGilState : kPyhold;
  const bool parquet = argument / 2 == 1;
  const ArrowTable table = MakeTable(20000);
  const std::string data = parquet ? ToParquet(table) : ToCsv(table);
  StartPythonWithFiles();
  ArrowFile file = LastingFile(way, data);
  std::future<Result<ArrowTable>> reading = std::async(
      std::launch::async, [parquet, file = std::move(file)]() mutable {
        return parquet ? ReadParquet(std::move(file))
                       : ReadCsv(std::move(file));
      });
  WaitUntilInTheMiddle();
  printf("finalizing\n");
  REQUIRE(Py_FinalizeEx() == 0);
  printf("joining\n");
  const Status status = reading.get().status();
  printf("reader: %s\n", status.ToString().c_str());
  REQUIRE(status.IsCancelled());
  REQUIRE(status.message().find("PYHOLD_EFINALIZING") != std::string::npos);
  return 0;
}

// Py_FinalizeEx while Arrow's threads read, and main returns: as at the end of
// a script. Arrow's pools are joined by their destructors.
SCENARIO(FinalizesAndReturns) {
  const std::string data = ToCsv(MakeTable(20000));
  StartPythonWithFiles();
  auto reading =
      ReadCsvAsync(LastingFile(argument == 0 ? kGilState : kPyhold, data));
  WaitUntilInTheMiddle();
  printf("finalizing\n");
  REQUIRE(Py_FinalizeEx() == 0);
  printf("returning\n");
  // Arrow 25 itself, without any Python, does not always survive the end of the
  // process in the middle of ReadCsvAsync(). So let an answer come, if one does.
  (void)reading.Wait(/*seconds=*/2);
  return 0;
}

// The same without Py_FinalizeEx. Only reads that make no arrow::Buffer: what
// Arrow makes them with is destroyed before its pools are joined.
SCENARIO(ReturnsOnly) {
  StartPythonWithFiles();
  const ArrowFile file = LastingFile(kPyhold, std::string(32000, 'x'));
  for (int i = 0; i < 32; ++i) {
    const Status spawned = arrow::io::default_io_context().executor()->Spawn(
        [file, at = i * 1000] {
          char out[1000];
          (void)file->ReadAt(at, sizeof out, out);
        });
    REQUIRE(spawned.ok());
  }
  WaitUntilInTheMiddle();
  PyEval_SaveThread();  // else the pool's threads wait for us, and we for them
  std::atexit([] { ending.count_down(); });
  printf("returning\n");
  return 0;
}

// Of a thread of this process, as in /proc: 'S' if it sleeps.
char StateOfThread(int tid) {
  std::string stat;
  std::getline(
      std::ifstream("/proc/self/task/" + std::to_string(tid) + "/stat"), stat);
  const std::size_t name_end = stat.rfind(')');
  return name_end + 2 < stat.size() ? stat[name_end + 2] : '?';
}

std::atomic<int> dropping{0};  // the thread that lets go of the file
std::atomic<bool> dropped{false};

// An atexit callback: waits for that thread, with the GIL in hand, until it
// waits for the GIL or has finished.
PyObject* WaitForTheDrop(PyObject*, PyObject*) {
  ending.count_down();
  while (dropping == 0) std::this_thread::yield();
  while (!dropped && StateOfThread(dropping) != 'S') std::this_thread::yield();
  Py_RETURN_NONE;
}

// The last one to have a file is a thread of Arrow's, which lets go of it when
// Python ends: apache/arrow issues 33975 and 50482.
SCENARIO(DropsTheFileAtTheEnd) {
  StartPythonWithFiles();
  ArrowFile file =
      FileOf("io.BytesIO(b'data')", argument == 0 ? kGilState : kPyhold);
  DefineFunction("wait_for_the_drop", WaitForTheDrop);
  Exec("import atexit; atexit.register(wait_for_the_drop)");
  auto* pool = arrow::io::default_io_context().executor();
  REQUIRE(pool->Spawn([file = std::move(file)]() mutable {
                ending.wait();
                dropping = static_cast<int>(syscall(SYS_gettid));
                file.reset();
                dropped = true;
              })
              .ok());
  printf("finalizing\n");
  REQUIRE(Py_FinalizeEx() == 0);
  printf("returning\n");
  return 0;
}

constexpr int kPatience_s = 5;

// Without pyhold: none of them ends as it should.
TEST(ArrowTest, WithGilStateTheEndOfPythonHangsOrCrashes) {
  std::vector<std::pair<const char*, int>> scenarios = {
      {"FinalizesAndJoins", kGilState},
      {"FinalizesAndJoins", kGilState + 2},
      {"FinalizesAndReturns", kGilState},
  };
  // Without a GIL the file is dropped before Python ends.
  if (kHasGil) scenarios.push_back({"DropsTheFileAtTheEnd", kGilState});
  std::vector<std::future<ChildResult>> results;
  for (const auto& [name, argument] : scenarios)
    results.push_back(
        std::async(std::launch::async, RunChild, name, argument, kPatience_s));
  for (std::size_t i = 0; i < scenarios.size(); ++i) {
    const ChildResult result = results[i].get();
    std::cout << scenarios[i].first << ": " << result;
    EXPECT_FALSE(result.clean()) << scenarios[i].first;
    EXPECT_NE(result.output.find("finalizing"), std::string::npos);
  }
}

TEST(ArrowTest, ReaderIsCancelledWhenPythonEnds) {
  EXPECT_EQ(RunChild("FinalizesAndJoins", kPyhold, 60), Clean());
  EXPECT_EQ(RunChild("FinalizesAndJoins", kPyhold + 2, 60), Clean());
}

TEST(ArrowTest, ProcessEndsWhileArrowReads) {
  EXPECT_EQ(RunChild("FinalizesAndReturns", kPyhold), Clean());
  EXPECT_EQ(RunChild("ReturnsOnly"), Clean());
}

TEST(ArrowTest, FileIsDroppedWhenPythonEnds) {
  EXPECT_EQ(RunChild("DropsTheFileAtTheEnd", kPyhold), Clean());
}

SCENARIO(BufferOutlivesPython) {
  StartPythonWithFiles();
  ArrowFile file = FileOf("io.BytesIO(bytes(100) + bytes(range(256)) * 4096)");
  const auto small = file->ReadAt(100, 8).ValueOrDie();
  auto large = file->ReadAt(100, 256 * 4096).ValueOrDie();
  auto other = file->ReadAt(0, 64).ValueOrDie();
  {
    pyhold::ThreadStateDetachGuard detached;
    std::thread([&] { other.reset(); }).join();  // deferred
  }
  REQUIRE(Py_FinalizeEx() == 0);
  for (int i = 0; i < 8; ++i) REQUIRE(small->data()[i] == i);
  for (int i = 0; i < 256 * 4096; ++i) REQUIRE(large->data()[i] == i % 256);
  REQUIRE(file->ReadAt(0, 1).status().IsCancelled());
  REQUIRE(file->closed());
  std::thread([&] { large.reset(); }).join();
  return 0;
}

TEST(ArrowTest, BufferOutlivesPython) {
  EXPECT_EQ(RunChild("BufferOutlivesPython"), Clean());
}

}  // namespace
