#include "worker/report/metrics_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/metrics/fake.h"
#include "tests/support/fake_clock.h"

namespace emoe::worker {
namespace {

using metrics::FakeRegistry;
using metrics::Labels;

const CollectiveCounters kNoCollectives{};
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
  record.flops = 1e9;
  record.phase_seconds = {{Phase::forward, 0.2}, {Phase::comm, 0.1}};
  return record;
}

TEST(MetricsProbe, RankZeroServesTheJobAndItself) {
  FakeRegistry registry;
  testing::FakeClock clock;
  MetricsProbe probe(registry, clock, kNoCollectives, {.job_id = "j"});
  probe.on(PlanRecord{10, 2});
  EXPECT_EQ(registry.value("emoe_step", kRank0), 2.0);
  probe.on(step(2));
  probe.on(step(3));
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
  EXPECT_EQ(registry.value("emoe_model_flops_total", kJob), 2e9);
  EXPECT_EQ(registry.value("emoe_mfu_ratio", kJob), std::nullopt) << "the peak rate is not known";
  StepRecord on_gpus = step(4);
  on_gpus.ranks = 2;
  on_gpus.peak_flops = 4e9;
  probe.on(on_gpus);
  EXPECT_EQ(registry.value("emoe_mfu_ratio", kJob), 0.25);  // 2e9 a second of 8e9
  EXPECT_GT(*registry.value("emoe_host_rss_bytes", kRank0), 1e5);
}

TEST(MetricsProbe, OtherRanksServeOnlyThemselves) {
  FakeRegistry registry;
  testing::FakeClock clock;
  MetricsProbe probe(registry, clock, kNoCollectives, {.job_id = "j", .rank = 1});
  probe.on(PlanRecord{10, 0});
  probe.on(step(0));
  probe.on(EvalRecord{});
  probe.on(CheckpointRecord{});
  probe.on(CheckpointFailure{{.text = "disk full"}});
  probe.on(Warnings{{"ROWS_CUT", "text", "data.train"}});
  probe.on(ExpertLoad{});
  EXPECT_THAT(registry.names(),
              ::testing::ElementsAre("emoe_comm_bytes_total", "emoe_comm_seconds_total",
                                     "emoe_comm_sequence", "emoe_host_rss_bytes",
                                     "emoe_phase_seconds_total", "emoe_step", "emoe_step_seconds"));
}

TEST(MetricsProbe, CheckpointsEvaluationsAndExperts) {
  FakeRegistry registry;
  testing::FakeClock clock;
  MetricsProbe probe(registry, clock, kNoCollectives, {.job_id = "j"});
  EXPECT_FALSE(registry.value("emoe_eval_loss", kJob));
  EXPECT_FALSE(registry.value("emoe_checkpoint_last_success_timestamp_seconds", kJob));
  probe.on(EvalRecord{.step = 5, .loss = 1.5});
  probe.on(CheckpointRecord{5, "step_00000005", 1000, 0.25});
  probe.on(CheckpointFailure{{.text = "disk full"}});
  probe.on(ExpertLoad{.layer = 3, .load_cv = 0.5, .max_over_mean = 2.0, .dead = 1});
  EXPECT_EQ(registry.value("emoe_eval_loss", kJob), 1.5);
  EXPECT_EQ(registry.value("emoe_checkpoint_bytes", kJob), 1000.0);
  EXPECT_EQ(registry.value("emoe_checkpoint_seconds", kJob), 0.25);
  EXPECT_EQ(registry.value("emoe_checkpoint_last_success_timestamp_seconds", kJob),
            1'700'000'000.0);
  EXPECT_EQ(registry.value("emoe_checkpoint_failures_total", kJob), 1.0);
  EXPECT_EQ(registry.value("emoe_dead_experts", {{"job_id", "j"}, {"layer", "3"}}), 1.0);
  EXPECT_EQ(registry.value("emoe_expert_load_cv", {{"job_id", "j"}, {"layer", "3"}}), 0.5);
}

TEST(MetricsProbe, ASuitesAccuracy) {
  FakeRegistry registry;
  testing::FakeClock clock;
  MetricsProbe probe(registry, clock, kNoCollectives, {.job_id = "j"});
  const auto result = std::make_shared<const SuiteResult>(SuiteResult{
      .suite = "mmlu",
      .subjects = {{.name = "birds", .questions = {{}, {.answer = 1}}, .unscored = {}}}});
  probe.on(EvalRecord{.suite = result, .suite_dense = result});
  const metrics::Labels labels{{"job_id", "j"}, {"suite", "mmlu"}};
  EXPECT_EQ(registry.value("emoe_eval_accuracy", labels), 0.5);
  EXPECT_EQ(registry.value("emoe_eval_accuracy_dense", labels), 0.5);
  EXPECT_EQ(registry.value("emoe_eval_accuracy_subject_mean", labels), 0.5);
  EXPECT_FALSE(registry.value("emoe_eval_loss", kJob)) << "there were no rows";
}

TEST(MetricsProbe, CountsWarningsByCode) {
  FakeRegistry registry;
  testing::FakeClock clock;
  MetricsProbe probe(registry, clock, kNoCollectives, {.job_id = "j"});
  probe.on(Warnings{{"A", "x", "here"}, {"B", "x", "here"}});
  probe.on(Warnings{{"A", "x", "there", 7}});
  EXPECT_EQ(registry.value("emoe_warnings_total", {{"job_id", "j"}, {"code", "A"}}), 2.0);
  EXPECT_EQ(registry.value("emoe_warnings_total", {{"job_id", "j"}, {"code", "B"}}), 1.0);
}

TEST(MetricsProbe, ServesTheDevicesMemoryOnceThereIsAny) {
  FakeRegistry registry;
  testing::FakeClock clock;
  std::optional<DeviceMemory> memory;
  MetricsProbe probe(registry, clock, kNoCollectives,
                     {.job_id = "j", .rank = 3, .device_memory = [&] { return memory; }});
  const auto served = [&](const char* kind) {
    return registry.value("emoe_device_memory_bytes",
                          Labels{{"job_id", "j"}, {"rank", "3"}, {"kind", kind}});
  };
  probe.refresh();
  EXPECT_FALSE(served("allocated")) << "the device has not begun";
  memory = DeviceMemory{.allocated = 5, .reserved = 8, .peak_allocated = 6, .peak_reserved = 9};
  probe.refresh();
  EXPECT_EQ(served("allocated"), 5.0);
  EXPECT_EQ(served("reserved"), 8.0);
  EXPECT_EQ(served("peak_allocated"), 6.0);
  EXPECT_EQ(served("peak_reserved"), 9.0);
}

TEST(MetricsProbe, RefreshReadsTheCollectivesWithoutAStep) {
  FakeRegistry registry;
  testing::FakeClock clock;
  CollectiveCounters counters;
  CollectiveCounters::Totals& all_reduce = counters.totals[0];
  MetricsProbe probe(registry, clock, counters, {.job_id = "j"});
  const auto of = [](const char* op) { return Labels{{"job_id", "j"}, {"rank", "0"}, {"op", op}}; };
  EXPECT_EQ(registry.value("emoe_comm_sequence", kRank0), 0.0);
  EXPECT_EQ(registry.value("emoe_comm_bytes_total", of("all_reduce")), 0.0);
  counters.started = 3;
  all_reduce.bytes = 100;
  all_reduce.nanoseconds = 500'000'000;
  probe.refresh();
  probe.refresh();  // nothing new
  counters.started = 4;
  all_reduce.bytes = 160;
  all_reduce.nanoseconds = 2'000'000'000;
  probe.refresh();
  EXPECT_EQ(registry.value("emoe_comm_sequence", kRank0), 4.0);
  EXPECT_EQ(registry.value("emoe_comm_bytes_total", of("all_reduce")), 160.0);
  EXPECT_DOUBLE_EQ(*registry.value("emoe_comm_seconds_total", of("all_reduce")), 2.0);
  EXPECT_EQ(registry.value("emoe_comm_seconds_total", of("barrier")), 0.0);
}

TEST(MetricsProbe, ExpertTokensAreServedByEveryRankThatIsAskedTo) {
  FakeRegistry registry;
  testing::FakeClock clock;
  const ExpertLoad load{.layer = 3, .selections = {4, 0}};
  MetricsProbe silent(registry, clock, kNoCollectives, {.job_id = "j", .rank = 2});
  MetricsProbe probe(registry, clock, kNoCollectives,
                     {.job_id = "j", .rank = 1, .expert_tokens = true});
  for (MetricsProbe* each : {&silent, &probe, &probe}) each->on(load);
  const auto tokens = [&](const char* rank, const char* expert) {
    return registry.value("emoe_expert_tokens_total",
                          {{"job_id", "j"}, {"rank", rank}, {"layer", "3"}, {"expert", expert}});
  };
  EXPECT_EQ(tokens("1", "0"), 8.0);
  EXPECT_EQ(tokens("1", "1"), 0.0);
  EXPECT_FALSE(tokens("2", "0"));
}

TEST(MetricsProbe, CountsNonFiniteStepsAndLeavesNothingBehind) {
  FakeRegistry registry;
  testing::FakeClock clock;
  {
    MetricsProbe probe(registry, clock, kNoCollectives, {.job_id = "j"});
    EXPECT_EQ(registry.value("emoe_nonfinite_steps_total", kJob), 0.0);
    probe.on(NonFiniteStep{7});
    EXPECT_EQ(registry.value("emoe_nonfinite_steps_total", kJob), 1.0);
  }
  EXPECT_TRUE(registry.names().empty());
}

}  // namespace
}  // namespace emoe::worker
