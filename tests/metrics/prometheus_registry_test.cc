#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "metrics/prometheus.h"

namespace emoe::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(PrometheusRegistry, WritesEveryKindWithHelpTypeAndLabels) {
  PrometheusRegistry registry;
  const auto counter = registry.counter("emoe_tokens_total", "Tokens.", {{"job_id", "j\"1\n"}});
  const auto gauge = registry.gauge("emoe_step", "Steps done.", {});
  const auto histogram = registry.histogram("emoe_step_seconds", "Time.", {0.1, 1.0}, {});
  counter->increment(2.5);
  gauge->set(-3);
  histogram->observe(0.05);
  histogram->observe(0.5);
  histogram->observe(5);
  const std::string text = registry.text();
  EXPECT_THAT(text,
              HasSubstr("# HELP emoe_tokens_total Tokens.\n# TYPE emoe_tokens_total counter"));
  EXPECT_THAT(text, HasSubstr("emoe_tokens_total{job_id=\"j\\\"1\\n\"} 2.5\n"));
  EXPECT_THAT(text, HasSubstr("emoe_step -3\n"));
  EXPECT_THAT(text, HasSubstr("emoe_step_seconds_bucket{le=\"0.1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("emoe_step_seconds_bucket{le=\"1\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("emoe_step_seconds_bucket{le=\"+Inf\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("emoe_step_seconds_count 3\n"));
}

TEST(PrometheusRegistry, ASeriesLivesAsLongAsItsLastHandle) {
  PrometheusRegistry registry;
  auto first = registry.gauge("emoe_step", "", {{"job_id", "a"}});
  auto second = registry.gauge("emoe_step", "", {{"job_id", "a"}});
  const auto other = registry.gauge("emoe_step", "", {{"job_id", "b"}});
  second->set(4);
  first.reset();
  EXPECT_THAT(registry.text(), HasSubstr("emoe_step{job_id=\"a\"} 4"));
  second.reset();
  EXPECT_THAT(registry.text(), Not(HasSubstr("job_id=\"a\"")));
  EXPECT_THAT(registry.text(), HasSubstr("job_id=\"b\""));
  // Made anew it starts from nothing.
  const auto again = registry.gauge("emoe_step", "", {{"job_id", "a"}});
  EXPECT_THAT(registry.text(), HasSubstr("emoe_step{job_id=\"a\"} 0"));
}

TEST(PrometheusRegistry, HandlesMayOutliveTheRegistry) {
  std::shared_ptr<Counter> counter;
  {
    PrometheusRegistry registry;
    counter = registry.counter("emoe_x_total", "", {});
  }
  counter->increment();
}

TEST(PrometheusRegistryDeathTest, OneNameForTwoKindsIsABug) {
  PrometheusRegistry registry;
  const auto gauge = registry.gauge("emoe_step", "", {});
  EXPECT_DEATH((void)registry.counter("emoe_step", "", {}), "emoe_step");
}

}  // namespace
}  // namespace emoe::metrics
