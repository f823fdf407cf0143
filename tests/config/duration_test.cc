#include "config/duration.h"

#include <gtest/gtest.h>

namespace emoe::config {
namespace {

TEST(Duration, Forms) {
  const std::pair<const char*, const char*> cases[] = {
      {"0s", "0s"},       {"90s", "90s"},
      {"5m", "300s"},     {"1h30m", "5400s"},
      {"1d1s", "86401s"}, {"250ms", "0.25s"},
      {"1.5s", "1.5s"},   {"2m0.000000001s", "120.000000001s"}};
  for (const auto& [text, shown] : cases) {
    const auto duration = parse_duration(text);
    ASSERT_TRUE(duration.has_value()) << text;
    EXPECT_EQ(format_duration(*duration), shown);
    EXPECT_EQ(format_duration(*parse_duration(shown)), shown);
  }
}

TEST(Duration, Refuses) {
  for (const char* text : {"", "5", "s", "-5s", "1.5h", "5s1m", "1m1m", "1 s", "1s ", "5x", "1.s",
                           ".5s", "1.0000000001s", "9999999999999999s", "400000000000s", "1e3s"}) {
    EXPECT_FALSE(parse_duration(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace emoe::config
