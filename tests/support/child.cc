#include "tests/support/child.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "gtest/gtest.h"

namespace {

std::map<std::string, Scenario::Function>& Scenarios() {
  static auto* all = new std::map<std::string, Scenario::Function>;
  return *all;
}

}  // namespace

Scenario::Scenario(const char* name, Function function) {
  Scenarios()[name] = function;
}

std::ostream& operator<<(std::ostream& out, const ChildResult& r) {
  if (r.hung)
    out << "a child that hung";
  else if (r.signal != 0)
    out << "a child that died of signal " << r.signal;
  else
    out << "a child that ended with exit status " << r.exit_code;
  return out << ", having said:\n" << r.output;
}

ChildResult RunProgram(std::function<void()> exec_it, int limit_s) {
  ChildResult result;
  int fds[2];
  if (pipe(fds) != 0) return result;
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(fds[1], 1);
    dup2(fds[1], 2);
    close(fds[0]);
    close(fds[1]);
    exec_it();
    _exit(127);
  }
  close(fds[1]);
  auto until = std::chrono::steady_clock::now() + std::chrono::seconds(limit_s);
  char buffer[4096];
  for (;;) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      result.hung = true;
      kill(pid, SIGKILL);
      break;
    }
    pollfd p{fds[0], POLLIN, 0};
    if (poll(&p, 1, static_cast<int>(left.count())) <= 0) continue;
    ssize_t n = read(fds[0], buffer, sizeof buffer);
    if (n <= 0) break;  // all its ends are closed: it is ending
    result.output.append(buffer, static_cast<std::size_t>(n));
  }
  close(fds[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  if (result.hung) return result;
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

ChildResult RunChild(const std::string& scenario, int argument, int limit_s) {
  return RunProgram(
      [&] {
        setenv("PYHOLD_SCENARIO", scenario.c_str(), 1);
        setenv("PYHOLD_ARGUMENT", std::to_string(argument).c_str(), 1);
        execl("/proc/self/exe", "test", static_cast<char*>(nullptr));
      },
      limit_s);
}

// CPython does not give back all of its memory at its end, nor do we the objects
// that outlive it. What pyhold itself allocates is looked at.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libpython\n";
}

int main(int argc, char** argv) {
  if (const char* name = getenv("PYHOLD_SCENARIO")) {
    auto found = Scenarios().find(name);
    if (found == Scenarios().end()) {
      fprintf(stderr, "no scenario %s\n", name);
      return 2;
    }
    setvbuf(stdout, nullptr, _IOLBF, 0);
    return found->second(atoi(getenv("PYHOLD_ARGUMENT")));
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
