#include "base/pace.h"

#include <gtest/gtest.h>

namespace emoe {
namespace {

TEST(Pace, IsTheMeanOfTheLastTwentySteps) {
  Pace pace;
  EXPECT_EQ(pace.tokens_per_second(), 0.0);
  EXPECT_EQ(pace.eta_seconds(100), 0.0);
  for (int64_t step = 0; step < 5; ++step) pace.add(step, 1, 1000.0);  // slow, and long ago
  for (int64_t step = 5; step < 25; ++step) pace.add(step, 100, 0.5);
  EXPECT_DOUBLE_EQ(pace.tokens_per_second(), 200.0);
  EXPECT_DOUBLE_EQ(pace.eta_seconds(125), 50.0);  // 100 steps of half a second
  EXPECT_EQ(pace.eta_seconds(25), 0.0);
  EXPECT_EQ(pace.eta_seconds(0), 0.0) << "not planned yet";
}

TEST(Pace, StepsDoneAgainReplaceTheFirstTime) {
  Pace pace;
  for (int64_t step = 0; step < 4; ++step) pace.add(step, 100, 1.0);
  pace.add(2, 100, 3.0);
  EXPECT_DOUBLE_EQ(pace.tokens_per_second(), 300.0 / 5.0);
  EXPECT_DOUBLE_EQ(pace.eta_seconds(6), 3 * 5.0 / 3.0);
}

TEST(Pace, StepsThatTookNoTimeHaveNoSpeed) {
  Pace pace;
  pace.add(0, 100, 0.0);
  EXPECT_EQ(pace.tokens_per_second(), 0.0);
}

}  // namespace
}  // namespace emoe
