// What a rank reports through, put together for where it runs: alone, or under a coordinator.
#include "worker/run/reporting.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/attempt_contract.h"
#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/report/fake_coordinator.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

class ReportingTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(emoe::create_directories(out().root).ok()); }
  [[nodiscard]] OutputFolder out() const { return {dir_ / "out"}; }
  [[nodiscard]] static RankEnvironment alone(int rank = 0) {
    RankEnvironment environment;
    environment.rank = rank;
    environment.metrics_listen = "off";
    return environment;
  }
  [[nodiscard]] RankEnvironment under(const std::string& address, int grace_seconds = 60) const {
    RankEnvironment environment = alone();
    environment.coordinator = {.address = address,
                               .job_id = "job-1",
                               .attempt = 2,
                               .token = "secret",
                               .reconnect_grace = std::chrono::seconds(grace_seconds),
                               .unacked_file = dir_ / left_reports_file(0)};
    return environment;
  }
  [[nodiscard]] Reporting reporting(const RankEnvironment& environment) const {
    return Reporting(JobPlan{}, environment, out(), {.name = "cpu"}, counters_);
  }

  emoe::testing::TempDir dir_;
  CollectiveCounters counters_;
};

const EvalRecord kEvaluation{
    .step = 0, .loss = 2.5, .loss_dense = 2.25, .perplexity = 9.0, .target_tokens = 7};

TEST_F(ReportingTest, Rank0WritesTheFilesAndNoOtherDoes) {
  for (const int rank : {1, 0}) {
    Reporting own = reporting(alone(rank));
    own.sink().on(kEvaluation);
    own.finish(ExitCode::done, "");
    EXPECT_EQ(fs::exists(out().root / "eval.jsonl"), rank == 0);
    EXPECT_FALSE(own.must_leave());
    EXPECT_EQ(own.stop().poll(), StopRequest::none);
  }
  EXPECT_NE(read_file(out().root / "eval.jsonl")->find("2.25"), std::string::npos);
}

TEST_F(ReportingTest, FilesThatCannotBeWrittenAreTheEndOfARunThatWasDone) {
  fs::create_symlink("/dev/full", out().root / "eval.jsonl");
  Reporting done = reporting(alone());
  done.sink().on(kEvaluation);
  try {
    done.finish(ExitCode::done, "");
    FAIL() << "the disk is full";
  } catch (const JobError& error) {
    EXPECT_EQ(error.code(), ExitCode::io) << error.what();
  }
  // A run that fails anyway keeps its own reason.
  Reporting failed = reporting(alone());
  failed.sink().on(kEvaluation);
  EXPECT_NO_THROW(failed.finish(ExitCode::data, "row 7"));
}

TEST_F(ReportingTest, ACoordinatorHasHeardAllWhenARankEnds) {
  FakeCoordinator coordinator;
  RankEnvironment environment = under(coordinator.address());
  environment.metrics_listen = "127.0.0.1:0";
  Reporting own = reporting(environment);
  own.sink().on(kEvaluation);
  own.finish(ExitCode::data, "row 7");
  const auto stored = coordinator.stored();
  ASSERT_EQ(stored.size(), 2u);
  EXPECT_EQ(stored[0].eval().loss_dense(), 2.25);
  EXPECT_EQ(stored[1].end().exit_code(), 65);
  EXPECT_EQ(stored[1].end().message(), "row 7");
  const v1::Join join = coordinator.joins().at(0);
  EXPECT_EQ(join.attempt(), 2);
  EXPECT_EQ(join.rank().device(), "cpu");
  EXPECT_FALSE(join.rank().metrics_address().empty());
  EXPECT_FALSE(fs::exists(dir_ / left_reports_file(0))) << "nothing is left to deliver";
}

TEST_F(ReportingTest, ACommandOfTheCoordinatorStopsTheTask) {
  FakeCoordinator coordinator;
  Reporting own = reporting(under(coordinator.address()));
  ASSERT_TRUE(coordinator.wait([](const FakeCoordinator& c) { return !c.joins().empty(); }));
  coordinator.send(v1::Command::STOP);
  ASSERT_TRUE(coordinator.wait(
      [&](const FakeCoordinator&) { return own.stop().poll() == StopRequest::stop; }));
  EXPECT_FALSE(own.must_leave());
  own.finish(ExitCode::preempted, "");
}

TEST_F(ReportingTest, WhatNobodyHeardIsLeftInTheAttemptsFolder) {
  std::string nobody;
  {
    const FakeCoordinator gone;
    nobody = gone.address();
  }
  Reporting own = reporting(under(nobody, /*grace_seconds=*/0));
  own.sink().on(kEvaluation);
  own.finish(ExitCode::done, "");
  EXPECT_GT(fs::file_size(dir_ / left_reports_file(0)), 0u);
}

}  // namespace
}  // namespace emoe::worker
