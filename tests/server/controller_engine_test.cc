// What an engine with a queue of its own adds: attempts that wait there, and ends that are its doing.
#include "server/control/controller.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using launcher::EndCause;
using launcher::StopMode;
using std::chrono::seconds;

TEST_F(ControllerTest, TheTimeToJoinBeginsWhenTheEngineStartsTheRanks) {
  const std::string id = submit();
  step();
  launcher_.set_queued(id, 1, "Slurm job 17 is pending: Resources");
  advance(10 * config_.join_timeout);
  EXPECT_EQ(job(id).state(), v1::STARTING);
  EXPECT_EQ(job(id).message(), "Slurm job 17 is pending: Resources");
  launcher_.set_queued(id, 1, "");
  advance(config_.join_timeout / 2);
  EXPECT_EQ(job(id).state(), v1::STARTING);
  EXPECT_EQ(job(id).message(), "");
  advance(config_.join_timeout);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_START_FAILED);
}

TEST_F(ControllerTest, NobodyIsLateWhileTheEngineIsAway) {
  const std::string id = submit();
  step();
  launcher_.set_unknown(id, 1, true);
  advance(10 * config_.join_timeout);
  launcher_.set_unknown(id, 1, false);
  step();
  join(id, 0, 1);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
}

TEST_F(ControllerTest, TimeInTheEnginesQueueIsNoRunTime) {
  v1::JobSpec spec = small_spec(dir_.path(), 1);
  spec.mutable_resources()->mutable_max_runtime()->set_seconds(60);
  const std::string id = submit(spec);
  step();
  launcher_.set_queued(id, 1, "Priority");
  advance(seconds(600));
  launcher_.set_queued(id, 1, "");
  step();
  join(id, 0, 1);
  advance(seconds(5));
  EXPECT_EQ(job(id).state(), v1::RUNNING);
}

TEST_F(ControllerTest, CancelsWhatWaitsInTheEnginesQueue) {
  const std::string id = submit();
  step();
  launcher_.set_queued(id, 1, "Priority");
  step();
  ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
  step();
  ASSERT_EQ(launcher_.stops().size(), 1U);
  EXPECT_EQ(launcher_.stops()[0].mode, StopMode::graceful);
  launcher_.end(id, 1, {.cause = EndCause::cancelled});
  step();
  EXPECT_EQ(job(id).state(), v1::CANCELLED);
}

TEST_F(ControllerTest, WhatTheEngineSaysOfAnEndComesBeforeTheExits) {
  struct Case {
    EndCause cause;
    v1::JobState state;
    v1::Reason reason;
    bool counted;
  };
  for (const Case& c : {Case{EndCause::preempted, v1::QUEUED, v1::REASON_PREEMPTED, false},
                        Case{EndCause::time_limit, v1::QUEUED, v1::REASON_PREEMPTED, true},
                        Case{EndCause::node_lost, v1::QUEUED, v1::REASON_PEER_LOST, true},
                        Case{EndCause::cancelled, v1::CANCELLED, v1::REASON_CANCELLED, false}}) {
    const std::string id = submit();
    step();
    join(id, 0, 1);
    launcher_.end(id, 1, {.cause = c.cause, .exit_code = 71, .detail = "Slurm job 17: X"});
    step();
    EXPECT_EQ(job(id).state(), c.state);
    EXPECT_EQ(job(id).attempts(0).reason(), c.reason);
    EXPECT_EQ(job(id).attempts(0).counted(), c.counted);
    EXPECT_EQ(job(id).attempts(0).message(), "Slurm job 17: X");
    if (c.state == v1::QUEUED) {
      ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
    }
    step();
  }
}

TEST_F(ControllerTest, AJobThatIsDoneIsDoneWhateverTheEngineSays) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, merge(true));
  report(channel, 2, make_end(0));
  launcher_.end(id, 1, {.cause = EndCause::time_limit, .signal = 9});
  step();
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
}

TEST_F(ControllerTest, AnEngineThatDoesNotAnswerIsAskedAgainAndNotCounted) {
  launcher_.fail_launches(absl::UnavailableError("sbatch did not come to an end"));
  const std::string id = submit();
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_FALSE(job(id).attempts(0).counted());
  launcher_.fail_launches(ok_status());
  advance(seconds(10));
  EXPECT_EQ(job(id).state(), v1::STARTING);
}

}  // namespace
}  // namespace emoe::server
