// PauseJob, ResumeJob, and jobs that make room for others.
#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

class PauseTest : public ControllerTest {
 protected:
  // A job whose one rank has done a step.
  std::string running_job(int priority = 0) {
    const std::string id = submit(1, priority);
    step();
    step();
    channel_ = join(id, 0, 1);
    report(channel_, 1, step_report(0));
    EXPECT_EQ(job(id).state(), v1::RUNNING);
    return id;
  }
  // It writes its checkpoint and goes.
  void leave(const std::string& id, int attempt = 1, int64_t sequence = 2) {
    report(channel_, sequence, make_end(75, "stopped as asked"));
    launcher_.end(id, attempt, {.exit_code = 75});
    step();
    step();
  }
  Status pause(const std::string& id, const RequestKey& key = {}) {
    return controller_->pause(id, key).status();
  }
  std::shared_ptr<FakeChannel> channel_;
};

TEST_F(PauseTest, ARunningJobLeavesAtItsStepEdgeAndGoesOnLater) {
  const std::string id = running_job();
  ASSERT_TRUE(pause(id).ok());
  EXPECT_EQ(job(id).state(), v1::PAUSING);
  step();
  EXPECT_EQ(channel_->commands, std::vector{RankCommand::checkpoint_and_stop});
  // A step may take longer than any stop that kills waits for.
  controller_->post({channel_, make_heartbeat(1, "backward", 1, 1)});
  for (int i = 0; i < 5; ++i) {
    advance(config_.session_timeout / 4);
    controller_->post({channel_, make_heartbeat(1, "backward", i + 2, i + 2)});
  }
  EXPECT_EQ(job(id).state(), v1::PAUSING);
  leave(id);
  EXPECT_EQ(job(id).state(), v1::PAUSED);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_PAUSED);
  EXPECT_FALSE(job(id).attempts(0).counted());
  EXPECT_EQ(controller_->slots().free, 2);
  advance(std::chrono::hours(1));
  EXPECT_EQ(job(id).attempts_size(), 1) << "paused is paused";
  ASSERT_TRUE(controller_->resume(id, {}).ok());
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::STARTING);
  EXPECT_EQ(history(id), (std::vector{v1::QUEUED, v1::STARTING, v1::RUNNING, v1::PAUSING,
                                      v1::PAUSED, v1::QUEUED, v1::STARTING}));
}

TEST_F(PauseTest, SurvivesARestartInEachState) {
  const std::string id = running_job();
  ASSERT_TRUE(pause(id).ok());
  restart();
  EXPECT_EQ(job(id).state(), v1::PAUSING);
  step();
  channel_ = join(id, 0, 1);
  EXPECT_EQ(channel_->commands, std::vector{RankCommand::checkpoint_and_stop})
      << "who comes back hears it";
  leave(id);
  EXPECT_EQ(job(id).state(), v1::PAUSED);
  restart();
  advance(std::chrono::minutes(10));
  EXPECT_EQ(job(id).state(), v1::PAUSED);
  EXPECT_EQ(controller_->slots().free, 2);
  ASSERT_TRUE(controller_->resume(id, {}).ok());
  restart();
  step();
  EXPECT_EQ(job(id).state(), v1::STARTING);
}

TEST_F(PauseTest, AQueuedJobIsPausedAtOnceAndOthersPassIt) {
  const std::string wide = submit(2);
  step();
  const std::string paused = submit(2, 5);
  const std::string other = submit(2);
  ASSERT_TRUE(pause(paused).ok());
  EXPECT_EQ(job(paused).state(), v1::PAUSED);
  step();
  EXPECT_EQ(job(other).queue_position(), 1);
  const RequestKey key{"r", "PauseJob", "h"};
  const auto again = controller_->pause(paused, key);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->etag(), job(paused).etag()) << "nothing changed";
  EXPECT_EQ(controller_->pause(paused, key)->SerializeAsString(), again->SerializeAsString());
  ASSERT_TRUE(controller_->cancel(paused, "", {}).ok());
  EXPECT_EQ(job(paused).state(), v1::CANCELLED);
  EXPECT_EQ(error_detail_of(pause(paused)).reason, "WRONG_STATE");
  EXPECT_EQ(error_detail_of(controller_->resume(wide, {}).status()).reason, "WRONG_STATE");
  EXPECT_EQ(pause("job-nothing").code(), StatusCode::kNotFound);
}

TEST_F(PauseTest, ResumedBeforeItHasLeftItGoesOnInANewAttempt) {
  const std::string id = running_job();
  ASSERT_TRUE(pause(id).ok());
  ASSERT_TRUE(controller_->resume(id, {}).ok());
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
  ASSERT_TRUE(pause(id).ok());
  ASSERT_TRUE(controller_->resume(id, {}).ok());
  leave(id);
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  advance(config_.retry_pause);
  EXPECT_EQ(job(id).state(), v1::STARTING);
}

TEST_F(PauseTest, AFailureOfItsOwnIsNoPause) {
  const std::string id = running_job();
  ASSERT_TRUE(pause(id).ok());
  report(channel_, 2, make_end(76, "loss is nan"));
  launcher_.end(id, 1, {.exit_code = 76});
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::FAILED);
  EXPECT_EQ(job(id).reason(), v1::REASON_NON_FINITE);
}

TEST_F(PauseTest, OneThatFinishesMeanwhileHasSucceeded) {
  const std::string id = running_job();
  ASSERT_TRUE(pause(id).ok());
  finish_well(id, channel_, 2);
  step();
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
}

TEST_F(PauseTest, RanksThatAreLostWhileTheyLeaveAreKilledAndTheJobIsPaused) {
  const std::string id = running_job();
  ASSERT_TRUE(pause(id).ok());
  step();
  advance(config_.session_timeout + std::chrono::seconds(1));
  step();
  ASSERT_FALSE(launcher_.stops().empty());
  EXPECT_EQ(launcher_.stops().back().mode, launcher::StopMode::kill);
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::PAUSED);
}

TEST_F(PauseTest, NothingIsPausedThatCouldNotBeStored) {
  const std::string id = running_job();
  fail_commits(1);
  EXPECT_FALSE(pause(id).ok());
  step();
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  EXPECT_TRUE(channel_->commands.empty());
}

class PreemptTest : public PauseTest {
 protected:
  void SetUp() override {
    config_.preempt = true;
    config_.min_run = std::chrono::seconds(20);
    PauseTest::SetUp();
  }
};

TEST_F(PreemptTest, AJobOfHigherPriorityTakesTheSlotsOfALowerOne) {
  const std::string low = running_job();
  const std::string high = submit(2, 5);
  step();
  EXPECT_EQ(job(low).state(), v1::RUNNING) << "it has not run for min_run";
  advance(config_.min_run);
  controller_->post({channel_, make_heartbeat(1, "data", 1, 1)});
  step();
  EXPECT_EQ(job(low).state(), v1::RECOVERING);
  EXPECT_EQ(channel_->commands, std::vector{RankCommand::checkpoint_and_stop});
  restart();
  channel_ = join(low, 0, 1);
  EXPECT_EQ(channel_->commands, std::vector{RankCommand::checkpoint_and_stop});
  leave(low);
  step();
  EXPECT_EQ(job(high).state(), v1::STARTING);
  const v1::Job put_back = job(low);
  EXPECT_EQ(put_back.state(), v1::QUEUED);
  EXPECT_EQ(put_back.attempts(0).reason(), v1::REASON_PREEMPTED);
  EXPECT_FALSE(put_back.attempts(0).counted());
  advance(std::chrono::seconds(30));
  EXPECT_EQ(job(low).state(), v1::QUEUED) << "it does not take its slots back";
}

TEST_F(PreemptTest, MinRunBeginsWithTheFirstStep) {
  const std::string low = submit(1);
  step();
  step();
  channel_ = join(low, 0, 1);
  const std::string high = submit(2, 5);
  for (int i = 0; i < 6; ++i) {  // it loads its model
    advance(config_.min_run / 2);
    controller_->post({channel_, make_heartbeat(0, "model", 1, i + 1)});
    step();
  }
  EXPECT_EQ(job(low).state(), v1::RUNNING) << "else it would load for nothing, again and again";
  EXPECT_FALSE(job(low).attempts(0).has_first_step_time());
  report(channel_, 1, step_report(0));
  EXPECT_TRUE(job(low).attempts(0).has_first_step_time());
  advance(config_.min_run / 2);
  controller_->post({channel_, make_heartbeat(1, "data", 2, 8)});
  restart();  // what it knows is stored
  channel_ = join(low, 0, 1);
  step();
  EXPECT_EQ(job(low).state(), v1::RUNNING);
  advance(config_.min_run / 2 + std::chrono::seconds(1));
  controller_->post({channel_, make_heartbeat(1, "data", 2, 9)});
  step();
  EXPECT_EQ(job(low).state(), v1::RECOVERING) << to_string(job(low).state());
}

TEST_F(PreemptTest, IsOffUnlessAskedFor) {
  config_.preempt = false;
  restart();
  const std::string low = running_job();
  submit(2, 5);
  advance(std::chrono::seconds(25));
  step();
  EXPECT_EQ(job(low).state(), v1::RUNNING);
}

}  // namespace
}  // namespace emoe::server
