#include "worker/report/metrics_probe.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "metrics/fake.h"

namespace emoe::worker {
namespace {

using metrics::FakeRegistry;
using metrics::Labels;

const Labels kJob{{"job_id", "j"}};
const Labels kRank0{{"job_id", "j"}, {"rank", "0"}};

StepRecord step(int64_t number) {
  StepRecord record;
  record.step = number;
  record.loss = 2.5;
  record.tokens = 100;
  record.target_tokens = 60;
  record.padding_tokens = 8;
  record.samples = 4;
  record.seconds = 0.5;
  record.phase_seconds = {{Phase::forward, 0.2}, {Phase::comm, 0.1}};
  return record;
}

TEST(MetricsProbe, RankZeroServesTheJobAndItself) {
  FakeRegistry registry;
  FakeClock clock;
  MetricsProbe probe(registry, clock, {.job_id = "j", .comm_sequence = [] { return 42; }});
  probe.on_plan(10, 2);
  EXPECT_EQ(registry.value("emoe_step", kRank0), 2.0);
  probe.on_step(step(2));
  probe.on_step(step(3));
  EXPECT_EQ(registry.value("emoe_step", kRank0), 4.0);
  EXPECT_EQ(registry.value("emoe_steps_planned", kJob), 10.0);
  EXPECT_EQ(registry.value("emoe_train_loss", kJob), 2.5);
  EXPECT_EQ(registry.value("emoe_samples_total", kJob), 8.0);
  EXPECT_EQ(registry.value("emoe_tokens_total", {{"job_id", "j"}, {"kind", "trained"}}), 120.0);
  EXPECT_EQ(registry.value("emoe_tokens_total", {{"job_id", "j"}, {"kind", "prompt"}}), 80.0);
  EXPECT_EQ(registry.value("emoe_tokens_total", {{"job_id", "j"}, {"kind", "padding"}}), 16.0);
  EXPECT_EQ(registry.value("emoe_eta_seconds", kJob), 3.0);  // 6 steps of 0.5 s
  EXPECT_EQ(registry.value("emoe_last_step_timestamp_seconds", kJob), 1'700'000'000.0);
  EXPECT_THAT(registry.observations("emoe_step_seconds", kRank0), ::testing::ElementsAre(0.5, 0.5));
  Labels comm = kRank0;
  comm["phase"] = "comm";
  EXPECT_DOUBLE_EQ(*registry.value("emoe_phase_seconds_total", comm), 0.2);
  EXPECT_EQ(registry.value("emoe_comm_sequence", kRank0), 42.0);
  EXPECT_GT(*registry.value("emoe_host_rss_bytes", kRank0), 1e5);
}

TEST(MetricsProbe, OtherRanksServeOnlyThemselves) {
  FakeRegistry registry;
  FakeClock clock;
  MetricsProbe probe(registry, clock, {.job_id = "j", .rank = 1});
  probe.on_plan(10, 0);
  probe.on_step(step(0));
  probe.on_eval({});
  probe.on_checkpoint({});
  probe.on_checkpoint_failure("disk full");
  probe.on_expert_load({});
  EXPECT_THAT(registry.names(),
              ::testing::ElementsAre("emoe_comm_sequence", "emoe_host_rss_bytes",
                                     "emoe_phase_seconds_total", "emoe_step", "emoe_step_seconds"));
}

TEST(MetricsProbe, CheckpointsEvaluationsAndExperts) {
  FakeRegistry registry;
  FakeClock clock;
  MetricsProbe probe(registry, clock, {.job_id = "j"});
  EXPECT_FALSE(registry.value("emoe_eval_loss", kJob));
  EXPECT_FALSE(registry.value("emoe_checkpoint_last_success_timestamp_seconds", kJob));
  probe.on_eval({.step = 5, .loss = 1.5});
  probe.on_checkpoint({5, "step_00000005", 1000, 0.25});
  probe.on_checkpoint_failure("disk full");
  probe.on_expert_load({.layer = 3, .load_cv = 0.5, .max_over_mean = 2.0, .dead = 1});
  EXPECT_EQ(registry.value("emoe_eval_loss", kJob), 1.5);
  EXPECT_EQ(registry.value("emoe_checkpoint_bytes", kJob), 1000.0);
  EXPECT_EQ(registry.value("emoe_checkpoint_seconds", kJob), 0.25);
  EXPECT_EQ(registry.value("emoe_checkpoint_last_success_timestamp_seconds", kJob),
            1'700'000'000.0);
  EXPECT_EQ(registry.value("emoe_checkpoint_failures_total", kJob), 1.0);
  EXPECT_EQ(registry.value("emoe_dead_experts", {{"job_id", "j"}, {"layer", "3"}}), 1.0);
  EXPECT_EQ(registry.value("emoe_expert_load_cv", {{"job_id", "j"}, {"layer", "3"}}), 0.5);
}

TEST(MetricsProbe, CountsNonFiniteStepsAndLeavesNothingBehind) {
  FakeRegistry registry;
  FakeClock clock;
  {
    MetricsProbe probe(registry, clock, {.job_id = "j"});
    StepRecord bad = step(0);
    bad.grad_norm = std::numeric_limits<double>::infinity();
    probe.on_step(bad);
    EXPECT_EQ(registry.value("emoe_nonfinite_steps_total", kJob), 1.0);
  }
  EXPECT_TRUE(registry.names().empty());
}

}  // namespace
}  // namespace emoe::worker
