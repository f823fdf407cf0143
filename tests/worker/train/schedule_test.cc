#include "worker/train/schedule.h"

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

struct Case {
  ScheduleKind kind;
  double warmup_ratio;
  int64_t steps;
  int64_t step;
  double rate;  // of transformers 5's get_scheduler at a peak of 2e-4
};

constexpr Case kTransformers[] = {
    {ScheduleKind::cosine, 0.03, 100, 0, 0.0},
    {ScheduleKind::cosine, 0.03, 100, 1, 6.666666666666667e-05},
    {ScheduleKind::cosine, 0.03, 100, 2, 0.00013333333333333334},
    {ScheduleKind::cosine, 0.03, 100, 50, 0.00010485622221144484},
    {ScheduleKind::cosine, 0.03, 100, 98, 2.0971737622883515e-07},
    {ScheduleKind::cosine, 0.03, 100, 99, 5.2443095448506674e-08},
    {ScheduleKind::cosine, 0.1, 7, 0, 0.0},
    {ScheduleKind::cosine, 0.1, 7, 1, 0.0002},
    {ScheduleKind::cosine, 0.1, 7, 2, 0.00018660254037844388},
    {ScheduleKind::cosine, 0.1, 7, 3, 0.00015000000000000001},
    {ScheduleKind::cosine, 0.1, 7, 5, 5.000000000000002e-05},
    {ScheduleKind::cosine, 0.1, 7, 6, 1.339745962155613e-05},
    {ScheduleKind::cosine, 0.0, 5, 0, 0.0002},
    {ScheduleKind::cosine, 0.0, 5, 1, 0.00018090169943749476},
    {ScheduleKind::cosine, 0.0, 5, 2, 0.00013090169943749476},
    {ScheduleKind::cosine, 0.0, 5, 3, 6.909830056250527e-05},
    {ScheduleKind::cosine, 0.0, 5, 4, 1.9098300562505266e-05},
    {ScheduleKind::cosine, 1.0, 3, 0, 0.0},
    {ScheduleKind::cosine, 1.0, 3, 1, 6.666666666666667e-05},
    {ScheduleKind::cosine, 1.0, 3, 2, 0.00013333333333333334},
    {ScheduleKind::linear, 0.03, 100, 0, 0.0},
    {ScheduleKind::linear, 0.03, 100, 1, 6.666666666666667e-05},
    {ScheduleKind::linear, 0.03, 100, 2, 0.00013333333333333334},
    {ScheduleKind::linear, 0.03, 100, 50, 0.00010309278350515463},
    {ScheduleKind::linear, 0.03, 100, 98, 4.123711340206186e-06},
    {ScheduleKind::linear, 0.03, 100, 99, 2.061855670103093e-06},
    {ScheduleKind::linear, 0.1, 7, 0, 0.0},
    {ScheduleKind::linear, 0.1, 7, 1, 0.0002},
    {ScheduleKind::linear, 0.1, 7, 2, 0.0001666666666666667},
    {ScheduleKind::linear, 0.1, 7, 3, 0.00013333333333333334},
    {ScheduleKind::linear, 0.1, 7, 5, 6.666666666666667e-05},
    {ScheduleKind::linear, 0.1, 7, 6, 3.3333333333333335e-05},
    {ScheduleKind::linear, 0.0, 5, 0, 0.0002},
    {ScheduleKind::linear, 0.0, 5, 1, 0.00016},
    {ScheduleKind::linear, 0.0, 5, 2, 0.00012},
    {ScheduleKind::linear, 0.0, 5, 3, 8e-05},
    {ScheduleKind::linear, 0.0, 5, 4, 4e-05},
    {ScheduleKind::linear, 1.0, 3, 0, 0.0},
    {ScheduleKind::linear, 1.0, 3, 1, 6.666666666666667e-05},
    {ScheduleKind::linear, 1.0, 3, 2, 0.00013333333333333334},
    {ScheduleKind::constant, 0.03, 100, 0, 0.0},
    {ScheduleKind::constant, 0.03, 100, 1, 6.666666666666667e-05},
    {ScheduleKind::constant, 0.03, 100, 2, 0.00013333333333333334},
    {ScheduleKind::constant, 0.03, 100, 50, 0.0002},
    {ScheduleKind::constant, 0.03, 100, 98, 0.0002},
    {ScheduleKind::constant, 0.03, 100, 99, 0.0002},
    {ScheduleKind::constant, 0.1, 7, 0, 0.0},
    {ScheduleKind::constant, 0.1, 7, 1, 0.0002},
    {ScheduleKind::constant, 0.1, 7, 2, 0.0002},
    {ScheduleKind::constant, 0.1, 7, 3, 0.0002},
    {ScheduleKind::constant, 0.1, 7, 5, 0.0002},
    {ScheduleKind::constant, 0.1, 7, 6, 0.0002},
    {ScheduleKind::constant, 0.0, 5, 0, 0.0002},
    {ScheduleKind::constant, 0.0, 5, 1, 0.0002},
    {ScheduleKind::constant, 0.0, 5, 2, 0.0002},
    {ScheduleKind::constant, 0.0, 5, 3, 0.0002},
    {ScheduleKind::constant, 0.0, 5, 4, 0.0002},
    {ScheduleKind::constant, 1.0, 3, 0, 0.0},
    {ScheduleKind::constant, 1.0, 3, 1, 6.666666666666667e-05},
    {ScheduleKind::constant, 1.0, 3, 2, 0.00013333333333333334},
};

TEST(Schedule, EqualsTransformers) {
  for (const Case& c : kTransformers) {
    const Schedule schedule{c.kind, 2e-4, c.warmup_ratio, c.steps};
    EXPECT_NEAR(schedule.rate_at(c.step), c.rate, 1e-18)
        << static_cast<int>(c.kind) << " ratio " << c.warmup_ratio << " step " << c.step << " of "
        << c.steps;
  }
}

TEST(Schedule, WarmUpIsRoundedUpAndStartsAtZero) {
  const Schedule schedule{ScheduleKind::cosine, 1.0, 0.03, 20};
  EXPECT_EQ(schedule.warmup_steps(), 1);
  EXPECT_EQ(schedule.rate_at(0), 0.0);
  EXPECT_EQ(schedule.rate_at(1), 1.0);
}

TEST(Schedule, WithoutWarmUpTheFirstStepHasThePeak) {
  for (const auto kind : {ScheduleKind::cosine, ScheduleKind::linear, ScheduleKind::constant}) {
    EXPECT_EQ((Schedule{kind, 3.0, 0.0, 10}).rate_at(0), 3.0);
  }
}

}  // namespace
}  // namespace emoe::worker
