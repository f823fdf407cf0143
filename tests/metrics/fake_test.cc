#include "tests/metrics/fake.h"

#include <gtest/gtest.h>

namespace emoe::metrics {
namespace {

TEST(FakeRegistry, SameNameAndLabelsAreTheSameSeries) {
  FakeRegistry registry;
  const auto first = registry.counter("emoe_x_total", "", {{"op", "a"}});
  const auto second = registry.counter("emoe_x_total", "", {{"op", "a"}});
  const auto other = registry.counter("emoe_x_total", "", {{"op", "b"}});
  first->increment(2);
  second->increment();
  EXPECT_EQ(registry.value("emoe_x_total", {{"op", "a"}}), 3.0);
  EXPECT_EQ(registry.value("emoe_x_total", {{"op", "b"}}), 0.0);
  EXPECT_EQ(registry.names(), std::vector<std::string>{"emoe_x_total"});
}

TEST(FakeRegistry, SeriesGoWithTheirLastHandle) {
  FakeRegistry registry;
  auto gauge = registry.gauge("emoe_step", "");
  auto histogram = registry.histogram("emoe_step_seconds", "", {1.0});
  gauge->set(7);
  histogram->observe(0.5);
  EXPECT_EQ(registry.value("emoe_step"), 7.0);
  EXPECT_EQ(registry.observations("emoe_step_seconds"), std::vector<double>{0.5});
  gauge.reset();
  histogram.reset();
  EXPECT_FALSE(registry.value("emoe_step"));
  EXPECT_TRUE(registry.names().empty());
}

}  // namespace
}  // namespace emoe::metrics
