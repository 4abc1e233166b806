// Misuse that clang's thread-safety analysis finds: compile/attached_ok.cc
// compiles without a warning, and each bad line of attached_bad.cc has one.
#include <unistd.h>

#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/child.h"

namespace {

ChildResult Compile(const char* file) {
  return RunProgram([&] {
    execlp("sh", "sh", "-c",
           "exec clang++ -std=c++17 -fsyntax-only -Wall -Wextra "
           "-Wthread-safety -Werror -I. -Icore/include -Icpp/include "
           "-isystem \"$(\"${PYTHON_BIN_PATH:-python3}\" -c 'import sysconfig; "
           "print(sysconfig.get_path(\"include\"))')\" \"$0\"",
           file, static_cast<char*>(nullptr));
  });
}

TEST(ThreadSafetyTest, GoodUseCompiles) {
  EXPECT_EQ(Compile("tests/compile/attached_ok.cc"), Clean());
}

TEST(ThreadSafetyTest, EachMisuseIsAnError) {
  const std::string file = "tests/compile/attached_bad.cc";
  ChildResult result = Compile(file.c_str());
  EXPECT_EQ(result.exit_code, 1) << result;
  std::ifstream source(file);
  int number = 0, bad = 0;
  for (std::string line; std::getline(source, line);) {
    ++number;
    std::string error = file + ":" + std::to_string(number) + ":";
    if (line.size() > 6 && line.rfind("// bad") == line.size() - 6) {
      ++bad;
      EXPECT_THAT(result.output, testing::HasSubstr(error)) << line;
    } else {
      EXPECT_THAT(result.output, testing::Not(testing::HasSubstr(error)));
    }
  }
  EXPECT_EQ(bad, 6);
}

}  // namespace
