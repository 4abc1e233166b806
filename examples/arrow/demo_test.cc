// The demo as a whole, run as its user runs it.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"

namespace {

struct Result {
  int status = -1;
  std::string output;
};

// $DEMO is the demo's program; `redirect` says what is read of it.
Result RunDemo(const std::string& arguments, const char* redirect) {
  Result result;
  const char* demo = std::getenv("DEMO");
  if (demo == nullptr) return result;
  FILE* pipe = popen((std::string(demo) + arguments + redirect).c_str(), "r");
  if (pipe == nullptr) return result;
  char buffer[4096];
  while (size_t n = std::fread(buffer, 1, sizeof buffer, pipe))
    result.output.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  return result;
}

TEST(ArrowDemoTest, PyholdLosesNothing) {
  const Result result = RunDemo("", " 2>/dev/null");
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_EQ(result.output.rfind("Python 3.", 0), 0u) << result.output;
  for (const char* row : {"\npyhold             CSV in a ZIP file   equal ",
                          "\npyhold             Parquet in BytesIO  equal "}) {
    const std::size_t at = result.output.find(row);
    ASSERT_NE(at, std::string::npos) << result.output;
    int asked = -1, answered = -1, refused = -1, failed = -1, lost = -1;
    EXPECT_EQ(std::sscanf(result.output.c_str() + at + std::string(row).size(),
                          "%d %d %d %d %d", &asked, &answered, &refused,
                          &failed, &lost),
              5);
    EXPECT_GT(answered, 0) << result.output;
    EXPECT_EQ(answered + refused, asked) << result.output;
    EXPECT_EQ(failed, 0) << result.output;
    EXPECT_EQ(lost, 0) << result.output;
  }
}

TEST(ArrowDemoTest, HelpIsPrintedOnStdout) {
  const Result result = RunDemo(" --help", "");
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.output.rfind("usage: ", 0), 0u);
}

TEST(ArrowDemoTest, RefusesArgumentsThatItDoesNotKnow) {
  for (const char* argument : {"--fast", "some.csv"}) {
    const Result result =
        RunDemo(std::string(" ") + argument, " 2>&1 >/dev/null");
    EXPECT_EQ(result.status, 2);
    EXPECT_EQ(result.output, std::string("demo: unknown argument '") +
                                 argument + "' (see --help)\n");
  }
}

}  // namespace
