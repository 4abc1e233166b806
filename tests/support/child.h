// Scenarios that end a process, or may: each runs in a child, which is this
// same program started again, and the parent looks at what became of it.
//
//   SCENARIO(FinalizeWaits) { ...; return 0; }   // in the child
//   TEST(GateTest, FinalizeWaits) {              // in the parent
//     EXPECT_EQ(RunChild("FinalizeWaits"), Clean());
//   }
#ifndef PYHOLD_TESTS_CHILD_H_
#define PYHOLD_TESTS_CHILD_H_

#include <functional>
#include <ostream>
#include <string>

struct ChildResult {
  int exit_code = -1;  // if it ended by itself
  int signal = 0;      // if one ended it
  bool hung = false;   // the watchdog did
  std::string output;  // stdout and stderr

  bool clean() const { return exit_code == 0 && signal == 0 && !hung; }
};

struct Clean {};
inline bool operator==(const ChildResult& r, Clean) { return r.clean(); }
std::ostream& operator<<(std::ostream& out, const ChildResult& r);
inline std::ostream& operator<<(std::ostream& out, Clean) {
  return out << "a child that ends by itself, with exit status 0";
}

// Runs a scenario to its end, or for `limit_s` seconds.
ChildResult RunChild(const std::string& scenario, int argument = 0,
                     int limit_s = 120);

// The same for a child that does `exec_it`.
ChildResult RunProgram(std::function<void()> exec_it, int limit_s = 120);

class Scenario {
 public:
  using Function = int (*)(int argument);
  Scenario(const char* name, Function function);
};

#define SCENARIO(name)                                     \
  static int Run##name(int);                               \
  static const Scenario scenario_##name(#name, Run##name); \
  static int Run##name([[maybe_unused]] int argument)

// In a scenario: end with exit status 1 and a message unless `condition`.
#define REQUIRE(condition)                                         \
  do {                                                             \
    if (!(condition)) {                                            \
      ::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, \
                #condition);                                       \
      ::_exit(1);                                                  \
    }                                                              \
  } while (0)

#endif  // PYHOLD_TESTS_CHILD_H_
