#include "plan/time_model.h"

#include <gtest/gtest.h>

namespace emoe {
namespace {

// A machine with 2 ms a step, 1e11 operations a second, 3 s around the steps and 0.5 GB a second.
FinishedRun run_of(double steps, double flops, double bytes, double slower = 1.0) {
  return {.size = {flops, steps, bytes},
          .step_seconds = slower * (0.002 * steps + flops / 1e11),
          .other_seconds = slower * (3 + bytes / 5e8)};
}

TEST(TimeModel, IsUnknownWithoutAFinishedRun) {
  EXPECT_FALSE(estimate_time({}, {1e12, 10, 1e6}).has_value());
}

TEST(TimeModel, ScalesTheOneRunThereIs) {
  const auto found = estimate_time({run_of(100, 5e13, 1e9)}, {1e14, 200, 1e9});
  ASSERT_TRUE(found.has_value());
  EXPECT_NEAR(found->seconds, 2 * (0.2 + 500) + 5, 1e-6);
  EXPECT_NEAR(found->relative_error, 0, 1e-9);
  EXPECT_EQ(found->runs, 1);
}

TEST(TimeModel, TellsStepsFromWorkAndStartFromWeights) {
  const std::vector<FinishedRun> finished{run_of(1000, 1e11, 1e6), run_of(10, 5e12, 4e9),
                                          run_of(300, 2e12, 1e9)};
  const auto found = estimate_time(finished, {7e12, 50, 2e9});
  ASSERT_TRUE(found.has_value());
  EXPECT_NEAR(found->seconds, 0.1 + 70 + 3 + 4, 1e-6);
  EXPECT_NEAR(found->relative_error, 0, 1e-6);
}

TEST(TimeModel, SaysHowFarItIsOffOnRunsItHasNotSeen) {
  // The same work took 10 s and 20 s: each is estimated by the two others.
  const std::vector<FinishedRun> finished{run_of(10, 1e12, 1e9), run_of(10, 1e12, 1e9),
                                          run_of(10, 1e12, 1e9, 2.0)};
  const auto found = estimate_time(finished, finished[0].size);
  ASSERT_TRUE(found.has_value());
  EXPECT_GT(found->relative_error, 0.2);
  EXPECT_LT(found->relative_error, 0.6);
  EXPECT_GT(found->seconds, 15.02);
  EXPECT_LT(found->seconds, 30.04);
}

TEST(TimeModel, LearnsNoNegativeRate) {
  // The run with more steps was faster: a step costs nothing, work does.
  const std::vector<FinishedRun> finished{
      {.size = {1e12, 10, 1e9}, .step_seconds = 10, .other_seconds = 1},
      {.size = {1e12, 1000, 1e8}, .step_seconds = 9, .other_seconds = 2}};
  const auto found = estimate_time(finished, {1e12, 1e6, 1e9});
  ASSERT_TRUE(found.has_value());
  EXPECT_NEAR(found->seconds, 9.5 + 1.3, 1.0);
}

TEST(TimeModel, ForgetsOldRuns) {
  std::vector<FinishedRun> finished(200, run_of(10, 1e12, 1e9, 5.0));
  for (int64_t i = 0; i < kLearnedRuns; ++i) finished.push_back(run_of(10, 1e12, 1e9));
  const auto found = estimate_time(finished, finished[0].size);
  EXPECT_NEAR(found->seconds, 0.02 + 10 + 5, 1e-6);
  EXPECT_EQ(found->runs, kLearnedRuns);
}

}  // namespace
}  // namespace emoe
