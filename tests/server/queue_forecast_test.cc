#include "server/control/queue_forecast.h"

#include <gtest/gtest.h>

namespace emoe::server {
namespace {

TEST(QueueForecast, StartsAtOnceWhereSlotsAreFree) {
  EXPECT_EQ(seconds_to_start(2, 4, {{2, std::nullopt}}, {}), 0.0);
}

TEST(QueueForecast, WaitsForTheFirstThatLeavesEnough) {
  EXPECT_EQ(seconds_to_start(2, 4, {{1, 50.0}, {1, 10.0}, {2, 30.0}}, {}), 30.0);
  EXPECT_EQ(seconds_to_start(1, 4, {{1, 50.0}, {1, 10.0}, {2, 30.0}}, {}), 10.0);
}

TEST(QueueForecast, LetsThoseBeforeItGoFirst) {
  // Of 2 slots one is free; the job ahead wants both, from 10 s to 110 s.
  EXPECT_EQ(seconds_to_start(1, 2, {{1, 10.0}}, {{2, 100.0}}), 110.0);
  EXPECT_EQ(seconds_to_start(1, 2, {{1, 10.0}}, {{1, 100.0}}), 10.0);
}

TEST(QueueForecast, DoesNotKnowWhatNobodyKnows) {
  EXPECT_FALSE(seconds_to_start(1, 2, {{2, std::nullopt}}, {}).has_value());
  EXPECT_FALSE(seconds_to_start(1, 2, {{2, 10.0}}, {{2, std::nullopt}}).has_value());
  // One whose end is not known is not in the way of a job that needs the other slot.
  EXPECT_EQ(seconds_to_start(1, 2, {{1, 7.0}, {1, std::nullopt}}, {}), 7.0);
  EXPECT_FALSE(seconds_to_start(3, 2, {}, {}).has_value()) << "it can never run";
}

}  // namespace
}  // namespace emoe::server
