#include <set>
#include <string>

#include "gtest/gtest.h"
#include "pyhold/core.h"

namespace {

struct Entry {
  pyhold_status status;
  int number;
  std::string name, message;
};

const Entry kAll[] = {
#define X(name, value, text) {PYHOLD_##name, value, "PYHOLD_" #name, text},
    PYHOLD_STATUS_MAP(X)
#undef X
};

TEST(StatusTest, EachHasItsNameAndMessage) {
  for (const Entry& e : kAll) {
    EXPECT_EQ(e.name, pyhold_status_name(e.status));
    EXPECT_EQ(e.message, pyhold_status_message(e.status));
  }
}

TEST(StatusTest, NumbersNamesAndMessagesAreDistinct) {
  std::set<int> numbers;
  std::set<std::string> names, messages;
  for (const Entry& e : kAll) {
    EXPECT_TRUE(numbers.insert(e.number).second) << e.name;
    EXPECT_TRUE(names.insert(e.name).second) << e.name;
    EXPECT_TRUE(messages.insert(e.message).second) << e.name;
  }
}

// The numbers are part of the ABI.
TEST(StatusTest, NumbersStayAsTheyWere) {
  EXPECT_EQ(PYHOLD_OK, 0);
  EXPECT_EQ(PYHOLD_EFINALIZING, -1);
  EXPECT_EQ(PYHOLD_ENOINTERP, -2);
  EXPECT_EQ(PYHOLD_ENOMEM, -3);
  EXPECT_EQ(PYHOLD_EDETACHED, -4);
  EXPECT_EQ(PYHOLD_EMISUSE, -5);
}

TEST(StatusTest, UnknownNumbersAreNamedSo) {
  auto unknown = static_cast<pyhold_status>(-7);
  EXPECT_STREQ(pyhold_status_name(unknown), "PYHOLD_UNKNOWN");
  EXPECT_NE(pyhold_status_message(unknown), nullptr);
}

}  // namespace
