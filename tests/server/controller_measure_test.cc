// What a job took stands beside its plan, and later plans learn from it.
#include "tests/server/support.h"

namespace emoe::server {
namespace {

class MeasureTest : public ControllerTest {
 protected:
  std::string submit_planned(int64_t steps = 4) {
    v1::Plan plan;
    plan.mutable_work()->set_steps(steps);
    plan.mutable_work()->set_tokens(steps * 100);
    plan.mutable_work()->set_flops(8e9);
    plan.mutable_memory()->set_base(1000);
    plan.mutable_memory()->set_rank_bytes(5000);
    const v1::JobSpec spec = small_spec(dir_.path());
    const auto job =
        controller_->create({.spec = spec, .resolved = config::resolve(spec), .plan = plan}, {});
    EXPECT_TRUE(job.ok()) << job.status();
    return job->id();
  }
  static v1::End end_with_usage(int64_t bytes) {
    v1::End end = make_end(0);
    end.mutable_usage()->set_rank_bytes(bytes);
    end.mutable_usage()->set_export_bytes(70);
    end.mutable_usage()->set_machine(kMachine);
    return end;
  }
  // Steps of half a second, then a verified export.
  void run(const std::string& id, int64_t steps, int attempt = 1, int64_t first = 0) {
    auto channel = join(id, 0, 1, attempt);
    int64_t sequence = 0;
    for (int64_t i = first; i < steps; ++i) report(channel, ++sequence, step_report(i));
    report(channel, ++sequence, phase("export"));
    report(channel, ++sequence, merge(true));
    report(channel, ++sequence, end_with_usage(6000));
    launcher_.end(id, attempt, {});
    step();
  }
  static constexpr char kMachine[] = "X, 1 thread, float32";
};

TEST_F(MeasureTest, ASuccessStandsBesideItsPlanAndTeaches) {
  const std::string id = submit_planned();
  step();
  step();
  clock_.advance(std::chrono::seconds(5));
  run(id, 4);
  const v1::Job done = job(id);
  ASSERT_EQ(done.state(), v1::SUCCEEDED);
  EXPECT_EQ(done.plan().memory().rank_bytes(), 5000);
  EXPECT_EQ(done.measured().rank_bytes(), 6000);
  EXPECT_EQ(done.measured().export_bytes(), 70);
  EXPECT_EQ(done.measured().machine(), kMachine);
  EXPECT_DOUBLE_EQ(done.measured().step_seconds(), 2.0);
  EXPECT_EQ(done.measured().tokens(), 400);
  EXPECT_GE(done.measured().seconds(), 5.0);
  ASSERT_TRUE(controller_->remove(id, "", false, {}).ok());
  restart();
  const auto runs = store_->finished_runs(kMachine);
  ASSERT_TRUE(runs.ok()) << runs.status();
  ASSERT_EQ(runs->size(), 1U) << "also when the job is deleted";
  EXPECT_DOUBLE_EQ(runs->front().size.flops_per_rank, 8e9);
  EXPECT_DOUBLE_EQ(runs->front().step_seconds, 2.0);
  EXPECT_NEAR(runs->front().other_seconds, done.measured().seconds() - 2.0, 1e-6);
  EXPECT_TRUE(store_->finished_runs("another")->empty());
}

TEST_F(MeasureTest, OfItsRanksTheOneWithMostStandsThere) {
  const std::string id = submit(2);
  step();
  step();
  for (int rank = 0; rank < 2; ++rank) {
    auto channel = join(id, rank, 2);
    v1::End end = end_with_usage(6000 + rank);
    end.mutable_usage()->set_device_bytes(rank == 0 ? 900 : 800);
    report(channel, 1, end);
  }
  EXPECT_EQ(job(id).measured().rank_bytes(), 6001);
  EXPECT_EQ(job(id).measured().device_bytes(), 900);
}

TEST_F(MeasureTest, WhatWasInterruptedTeachesNothing) {
  const std::string id = submit_planned();
  step();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, step_report(0));
  launcher_.end(id, 1, {.signal = 9});
  step();
  EXPECT_DOUBLE_EQ(job(id).measured().step_seconds(), 0.5) << "until now";
  advance(config_.retry_pause);
  step();
  run(id, 4, 2, 1);
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
  EXPECT_DOUBLE_EQ(job(id).measured().step_seconds(), 2.0);
  EXPECT_TRUE(store_->finished_runs(kMachine)->empty());
}

TEST_F(MeasureTest, OfAMachineNoMoreRunsAreKeptThanAreLearnedFrom) {
  for (int64_t i = 0; i < kLearnedRuns + 5; ++i) {
    Change change;
    change.finished_run =
        FinishedRunRecord{.job_id = "job-" + std::to_string(i),
                          .machine = i == 0 ? "other" : kMachine,
                          .run = {.size = {1e9, static_cast<double>(i), 1}, .step_seconds = 1},
                          .time = clock_.wall_now() + std::chrono::seconds(i)};
    ASSERT_TRUE(store_->commit(change).ok());
  }
  const auto runs = store_->finished_runs(kMachine);
  ASSERT_EQ(runs->size(), static_cast<size_t>(kLearnedRuns));
  EXPECT_EQ(runs->front().size.steps, 5) << "the oldest are forgotten, the newest is last";
  EXPECT_EQ(runs->back().size.steps, kLearnedRuns + 4);
  EXPECT_EQ(store_->finished_runs("other")->size(), 1U);
}

TEST_F(MeasureTest, AQueuedJobSaysWhereItStands) {
  const std::string first = submit_planned();
  const std::string second = submit_planned();
  step();
  submit(2, 9);
  const std::string waiting = submit(2);
  EXPECT_EQ(job(waiting).plan().queue().position(), 2);
  EXPECT_EQ(job(waiting).plan().queue().jobs_ahead(), 3);
  EXPECT_FALSE(job(waiting).plan().queue().has_start_time()) << "nobody knows how long they take";
  EXPECT_FALSE(job(first).plan().has_queue()) << "it runs";
  EXPECT_EQ(controller_->queue_plan(config::resolve(small_spec(dir_.path()))).position(), 3);
}

// An evaluation has no steps: what counts is the time since it began with the rows.
TEST_F(MeasureTest, AnEvaluationTeachesLaterOnes) {
  v1::JobSpec spec;
  spec.set_name("evaluation");
  spec.set_task("evaluate");
  *spec.mutable_model() = small_spec(dir_.path()).model();
  v1::Plan plan;
  plan.mutable_work()->set_tokens(100);
  plan.mutable_work()->set_flops(6e9);
  plan.mutable_memory()->set_base(1000);
  const auto made =
      controller_->create({.spec = spec, .resolved = config::resolve(spec), .plan = plan}, {});
  ASSERT_TRUE(made.ok()) << made.status();
  const std::string id = made->id();
  step();
  step();
  auto channel = join(id, 0, 1, 1);
  clock_.advance(std::chrono::seconds(3));
  report(channel, 1, phase("evaluate"));
  clock_.advance(std::chrono::seconds(7));
  v1::EvalResult result;
  result.set_loss(1.5);
  result.set_target_tokens(50);
  report(channel, 2, result);
  report(channel, 3, end_with_usage(6000));
  launcher_.end(id, 1, {});
  step();
  ASSERT_EQ(job(id).state(), v1::SUCCEEDED) << job(id).message();
  EXPECT_NEAR(job(id).measured().step_seconds(), 7.0, 0.5);
  const std::string kind = std::string(kMachine) + ", evaluate";
  const auto runs = store_->finished_runs(kind);
  ASSERT_TRUE(runs.ok() && runs->size() == 1) << "of its kind";
  EXPECT_DOUBLE_EQ(runs->front().size.flops_per_rank, 6e9);
  EXPECT_NEAR(runs->front().other_seconds, 3.0, 0.5);
  EXPECT_TRUE(store_->finished_runs(kMachine)->empty()) << "trainings learn nothing of it";
  const auto kinds = store_->learned_kinds();
  ASSERT_TRUE(kinds.ok());
  EXPECT_EQ(*kinds, std::vector<std::string>{kind});
}

}  // namespace
}  // namespace emoe::server
