// The demo as a whole, run as its user runs it.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "examples/demo/zip_directory.h"
#include "gtest/gtest.h"

namespace {

std::string TemporaryPath(const std::string& name) {
  return testing::TempDir() + "/" + name;
}

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string WriteFile(const std::string& name, const std::string& contents) {
  const std::string path = TemporaryPath(name);
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

struct Result {
  int status = -1;
  std::string out, err;
};

// $DEMO is the demo's program.
Result RunDemo(const std::vector<std::string>& args) {
  Result result;
  const char* demo = std::getenv("DEMO");
  if (demo == nullptr) return result;
  const std::string out = TemporaryPath("out"), err = TemporaryPath("err");
  const pid_t pid = fork();
  if (pid == 0) {
    if (!std::freopen(out.c_str(), "w", stdout) ||
        !std::freopen(err.c_str(), "w", stderr))
      _exit(126);
    std::vector<char*> argv = {const_cast<char*>(demo)};
    for (const std::string& arg : args)
      argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    execv(demo, argv.data());
    _exit(127);
  }
  int wait_status;
  if (waitpid(pid, &wait_status, 0) == pid && WIFEXITED(wait_status))
    result.status = WEXITSTATUS(wait_status);
  result.out = Contents(out);
  result.err = Contents(err);
  return result;
}

// The table's row for pyhold.
struct Row {
  int asked = -1, verified = -1, refused = -1, raised = -1, wrong = -1,
      lost = -1;
  std::string rest;
};
Row PyholdRow(const std::string& out) {
  Row row;
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string with;
    if (words >> with && with == "pyhold") {
      words >> row.asked >> row.verified >> row.refused >> row.raised >>
          row.wrong >> row.lost;
      std::getline(words, row.rest);
    }
  }
  return row;
}

void ExpectPerfect(const Result& result, int files) {
  EXPECT_EQ(result.status, 0) << result.err;
  const Row row = PyholdRow(result.out);
  if (files >= 0) {
    EXPECT_EQ(row.asked, files);
  }
  EXPECT_EQ(row.verified + row.refused, row.asked) << result.out;
  EXPECT_EQ(row.raised, 0) << result.out;
  EXPECT_EQ(row.wrong, 0) << result.out;
  EXPECT_EQ(row.lost, 0) << result.out;
  EXPECT_NE(row.rest.find("8 joined"), std::string::npos) << result.out;
  EXPECT_NE(row.rest.find("ended by itself, status 0"), std::string::npos)
      << result.out;
  EXPECT_NE(result.out.find("PyGILState_Ensure "), std::string::npos);
}

void ExpectBadInput(const Result& result, const std::string& why) {
  EXPECT_EQ(result.status, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
  // One line, apart from those that tell of progress.
  std::istringstream lines(result.err);
  int count = 0;
  for (std::string line; std::getline(lines, line);)
    count += line.find(" ...") == std::string::npos;
  EXPECT_EQ(count, 1) << result.err;
}

// --- ZIP files, made here ---

std::string Little(std::uint32_t value, int bytes) {
  std::string s;
  for (int i = 0; i < bytes; ++i) s += static_cast<char>(value >> 8 * i);
  return s;
}

struct File {
  std::string name, data;
};

constexpr std::size_t kEndSize = 22;
constexpr std::size_t kLocalHeaderSize = 30;

// A ZIP file of `files`, uncompressed.
std::string MakeZip(const std::vector<File>& files) {
  std::string zip, directory;
  for (const File& file : files) {
    const auto size = static_cast<std::uint32_t>(file.data.size());
    const std::string common =
        Little(20, 2) + Little(0, 2) + Little(0, 2) + Little(0x21 << 16, 4) +
        Little(Crc32(file.data.data(), size), 4) + Little(size, 4) +
        Little(size, 4) +
        Little(static_cast<std::uint32_t>(file.name.size()), 2) + Little(0, 2);
    directory += "PK\x01\x02" + Little(20, 2) + common + Little(0, 10) +
                 Little(static_cast<std::uint32_t>(zip.size()), 4) + file.name;
    zip += "PK\x03\x04" + common + file.name + file.data;
  }
  const auto count = static_cast<std::uint32_t>(files.size());
  const std::string end =
      "PK\x05\x06" + Little(0, 4) + Little(count, 2) + Little(count, 2) +
      Little(static_cast<std::uint32_t>(directory.size()), 4) +
      Little(static_cast<std::uint32_t>(zip.size()), 4) + Little(0, 2);
  return zip + directory + end;
}

std::vector<File> Files(int count) {
  std::vector<File> files;
  for (int i = 0; i < count; ++i)
    files.push_back({"file" + std::to_string(i), std::string(i * 100, 'x')});
  return files;
}

// --- The tests ---

TEST(ZipDirectoryTest, Crc32IsTheKnownOne) {
  EXPECT_EQ(Crc32("123456789", 9), 0xcbf43926u);
  EXPECT_EQ(Crc32("", 0), 0u);
}

TEST(ZipDirectoryTest, GivesTheMembersInOrder) {
  std::vector<ZipMember> members;
  const std::string zip = MakeZip({{"a", "one"}, {"d/", ""}, {"d/b", "three"}});
  ASSERT_EQ(ReadZipDirectory(WriteFile("m.zip", zip), &members), "");
  ASSERT_EQ(members.size(), 3u);
  EXPECT_EQ(members[0].name, "a");
  EXPECT_EQ(members[0].crc32, Crc32("one", 3));
  EXPECT_EQ(members[1].name, "d/");
  EXPECT_EQ(members[2].name, "d/b");
  EXPECT_EQ(members[2].size, 5u);
}

TEST(ZipDirectoryTest, TakesAZipWithSomethingBeforeItAndAComment) {
  const std::string comment = "PK\x05\x06 that is not the end";
  std::string zip = "#!/bin/sh\n" + MakeZip(Files(3));
  zip.replace(zip.size() - 2, 2,
              Little(static_cast<std::uint32_t>(comment.size()), 2));
  zip += comment;
  std::vector<ZipMember> members;
  EXPECT_EQ(ReadZipDirectory(WriteFile("c.zip", zip), &members), "");
  EXPECT_EQ(members.size(), 3u);
}

TEST(ZipDirectoryTest, RefusesEachZipThatIsCutShort) {
  const std::string zip = MakeZip(Files(3));
  std::vector<ZipMember> members;
  for (std::size_t size = 0; size < zip.size(); ++size) {
    const std::string path = WriteFile("t.zip", zip.substr(0, size));
    EXPECT_NE(ReadZipDirectory(path, &members), "") << size;
  }
}

TEST(ZipDirectoryTest, SurvivesAnyByteOfTheDirectoryDamaged) {
  const std::string zip = MakeZip(Files(3));
  std::vector<ZipMember> members;
  for (std::size_t at = zip.size() - kEndSize - 3 * 51; at < zip.size(); ++at) {
    for (int flip : {0x01, 0x80, 0xff}) {
      std::string damaged = zip;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      // Some bytes matter to nobody: all that counts is that it returns.
      (void)ReadZipDirectory(WriteFile("d.zip", damaged), &members);
    }
  }
}

TEST(DemoTest, ReadsOrRefusesEachFileOfTheStandardLibrary) {
  const Result result = RunDemo({});
  ExpectPerfect(result, /*files=*/-1);
  EXPECT_GE(PyholdRow(result.out).asked, 100) << result.out;
}

TEST(DemoTest, TellsTheTruthOfSmallZips) {
  for (int files : {0, 1, 30}) {
    SCOPED_TRACE(files);
    const std::string zip = WriteFile("small.zip", MakeZip(Files(files)));
    ExpectPerfect(RunDemo({"--zip", zip}), files);
  }
}

TEST(DemoTest, CountsNoFoldersAndTellsNamesThatOccurTwiceApart) {
  const std::string zip =
      MakeZip({{"d/", ""}, {"d/same", "one"}, {"d/same", "another"}});
  ExpectPerfect(RunDemo({"--zip=" + WriteFile("same.zip", zip)}), 2);
}

TEST(DemoTest, HelpIsPrintedOnStdout) {
  const Result result = RunDemo({"--help"});
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.out.rfind("usage: ", 0), 0u);
  EXPECT_EQ(result.err, "");
}

TEST(DemoTest, RefusesArgumentsThatItDoesNotKnow) {
  ExpectBadInput(RunDemo({"--fast"}), "unknown argument '--fast'");
  ExpectBadInput(RunDemo({"some.zip"}), "unknown argument 'some.zip'");
  ExpectBadInput(RunDemo({"--zip"}), "--zip needs a file");
  ExpectBadInput(RunDemo({"--zip="}), "--zip needs a file");
}

TEST(DemoTest, SaysThatThereIsNoSuchFile) {
  ExpectBadInput(RunDemo({"--zip", TemporaryPath("absent.zip")}),
                 "absent.zip: No such file or directory");
  ExpectBadInput(RunDemo({"--zip", testing::TempDir()}), "not a regular file");
}

TEST(DemoTest, SaysThatAFileIsNoZip) {
  ExpectBadInput(RunDemo({"--zip", WriteFile("empty.zip", "")}),
                 "not a ZIP file");
  const std::string text(100000, 'x');
  ExpectBadInput(RunDemo({"--zip", WriteFile("text.zip", text)}),
                 "not a ZIP file");
}

TEST(DemoTest, SaysThatAZipIsCutShort) {
  const std::string zip = MakeZip(Files(20));
  const std::string path = WriteFile("cut.zip", zip.substr(0, zip.size() / 2));
  ExpectBadInput(RunDemo({"--zip", path}), "its end is missing");
}

TEST(DemoTest, SaysThatTheDirectoryIsDamaged) {
  std::string zip = MakeZip({{"a", "one"}, {"b", "two"}});
  zip[zip.size() - kEndSize - 47] = 'Q';  // the second header's signature
  ExpectBadInput(RunDemo({"--zip", WriteFile("directory.zip", zip)}),
                 "entry 2 of 2 in the central directory is damaged");
}

TEST(DemoTest, SaysWhichMemberIsDamaged) {
  std::string zip = MakeZip({{"a", "one"}, {"b", "two"}});
  zip[2 * kLocalHeaderSize + 1 + 3 + 1] = 'X';  // of "two"
  ExpectBadInput(RunDemo({"--zip", WriteFile("member.zip", zip)}),
                 "broken: b: BadZipFile: Bad CRC-32 for file 'b'");
}

}  // namespace
