// A store that fails: nothing is answered or believed that is not stored, and all goes on once
// there is room again. And what is derived from the store.
#include <thread>

#include "base/log.h"
#include "server/control/controller.h"
#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using std::chrono::seconds;

class FailingStoreTest : public ControllerTest {
 protected:
  static std::string reason(const Status& status) { return error_detail_of(status).reason; }
  double goodput() { return registry_.value("emoe_goodput_ratio").value_or(-1); }
};

// Whoever counts an increase, an alert say, must have seen the count before it.
TEST_F(FailingStoreTest, CountsOfFailuresBeginAtZero) {
  for (const char* reason : {"configuration", "non_finite", "peer_lost", "coordinator_lost"}) {
    EXPECT_EQ(
        registry_.value("emoe_jobs_finished_total", {{"outcome", "failed"}, {"reason", reason}}),
        0);
    EXPECT_EQ(registry_.value("emoe_attempts_total", {{"cause", reason}}), 0);
  }
  EXPECT_EQ(registry_.value("emoe_attempts_total", {{"cause", "first"}}), 0);
}

TEST_F(FailingStoreTest, EachCallFailsWholeAndWorksWhenRepeated) {
  const v1::JobSpec spec = small_spec(dir_.path());
  const RequestKey create_key{"c", "CreateJob", "h"};
  fail_commits(1);
  EXPECT_EQ(reason(create(spec, create_key).status()), "STORE_FAILED");
  EXPECT_TRUE(store_->count_by_state()->empty());
  const auto created = create(spec, create_key);
  ASSERT_TRUE(created.ok()) << created.status();
  const std::string id = created->id();

  const RequestKey update_key{"u", "UpdateJob", "h"};
  fail_commits(1);
  EXPECT_EQ(reason(controller_->update(id, {.priority = 7}, "", update_key).status()),
            "STORE_FAILED");
  EXPECT_EQ(controller_->update(id, {.name = "new"}, "", {})->priority(), 0);
  EXPECT_EQ(controller_->update(id, {.priority = 7}, "", update_key)->priority(), 7);

  const RequestKey cancel_key{"x", "CancelJob", "h"};
  fail_commits(1);
  EXPECT_EQ(reason(controller_->cancel(id, "", cancel_key).status()), "STORE_FAILED");
  step();  // not cancelled in memory either: it starts
  EXPECT_EQ(job(id).state(), v1::STARTING);
  fail_commits(1);
  EXPECT_EQ(reason(controller_->cancel(id, "", cancel_key).status()), "STORE_FAILED");
  step();
  EXPECT_TRUE(launcher_.stops().empty());
  EXPECT_EQ(controller_->cancel(id, "", cancel_key)->state(), v1::CANCELLING);
  launcher_.end(id, 1, {});
  step();

  const std::filesystem::path out = job(id).output_dir();
  std::filesystem::create_directories(out / "export");
  fail_commits(1);
  EXPECT_EQ(reason(controller_->remove(id, "", true, {"d", "DeleteJob", "h"})), "STORE_FAILED");
  EXPECT_EQ(job(id).state(), v1::CANCELLED);
  EXPECT_TRUE(std::filesystem::exists(out / "export"));
  EXPECT_TRUE(controller_->remove(id, "", true, {"d", "DeleteJob", "h"}).ok());
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(FailingStoreTest, AStartThatCannotBeStoredStartsNothing) {
  const std::string id = submit();
  fail_commits(1);
  step();
  EXPECT_TRUE(launcher_.launches().empty());
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(controller_->slots().free, 2);
  step();
  EXPECT_EQ(launcher_.launches().size(), 1U);
  EXPECT_EQ(launcher_.launches()[0].attempt, 1);
}

TEST_F(FailingStoreTest, AJoinThatCannotBeStoredIsNotWelcomed) {
  const std::string id = submit();
  step();
  fail_commits(1);
  auto channel = join(id, 0, 1);
  EXPECT_FALSE(channel->welcomed.has_value());
  EXPECT_EQ(reason(*channel->closed), "STORE_FAILED");
  EXPECT_EQ(job(id).state(), v1::STARTING);
  EXPECT_EQ(join(id, 0, 1)->welcomed, 0);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
}

TEST_F(FailingStoreTest, ReportsAreNeitherAcknowledgedNorBelieved) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  fail_commits(1);
  report(channel, 1, step_report(2, 100));
  EXPECT_EQ(channel->acked, 0);
  EXPECT_EQ(reason(*channel->closed), "STORE_FAILED");
  EXPECT_EQ(registry_.value("emoe_goodput_ratio").value_or(0), 0);
  channel = join(id, 0, 1);
  EXPECT_EQ(channel->welcomed, 0);
  report(channel, 1, step_report(2, 100));
  EXPECT_EQ(channel->acked, 1);
  EXPECT_EQ(job(id).attempts(0).resumed_from_step(), 2);
  EXPECT_EQ(job(id).progress().tokens(), 100);
  EXPECT_DOUBLE_EQ(job(id).progress().tokens_per_second(), 200);
  EXPECT_EQ(store_->steps(id, 0, 100)->size(), 1U);
  // An end that is not stored does not excuse the silence after it.
  fail_commits(1);
  report(channel, 2, make_end(0));
  advance(config_.session_timeout);
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
}

TEST_F(FailingStoreTest, AnEndIsJudgedWhenItCanBeStored) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, merge(true));
  report(channel, 2, make_end(0));
  launcher_.end(id, 1, {});
  fail_commits(1);
  step();
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  EXPECT_FALSE(channel->closed.has_value());
  EXPECT_EQ(controller_->slots().free, 1);
  step();
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
  EXPECT_EQ(registry_.value("emoe_jobs_finished_total",
                            {{"outcome", "succeeded"}, {"reason", "completed"}}),
            1);
}

TEST_F(FailingStoreTest, TheReasonToStopIsStoredBeforeAnythingIsKilled) {
  const std::string id = submit();
  step();
  join(id, 0, 1);
  advance(config_.session_timeout - seconds(1));
  fail_commits(1);
  advance(seconds(1));
  EXPECT_TRUE(launcher_.stops().empty());
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  step();
  EXPECT_EQ(launcher_.stops().size(), 1U);
}

TEST_F(FailingStoreTest, ADiskThatStaysFullIsNotLoggedEveryRound) {
  submit();
  submit();
  fail_commits(1'000'000);
  ::testing::internal::CaptureStdout();  // where an uninitialised log goes
  for (int round = 0; round < 600; ++round) advance(std::chrono::milliseconds(200));
  const std::string text = ::testing::internal::GetCapturedStdout();
  size_t lines = 0;
  for (size_t at = text.find("disk is full"); at != std::string::npos;
       at = text.find("disk is full", at + 1)) {
    ++lines;
  }
  EXPECT_GE(lines, 2U);  // of each job
  EXPECT_LE(lines, 6U);  // … once a minute for two minutes
  fail_commits(0);
  step();
  EXPECT_EQ(launcher_.launches().size(), 2U);
}

TEST_F(FailingStoreTest, ARestartedCoordinatorKnowsWhereTheAttemptBegan) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  for (int step = 0; step < 3; ++step) report(channel, 1 + step, step_report(step));
  restart();
  channel = join(id, 0, 1);
  report(channel, 4, step_report(3));
  EXPECT_EQ(job(id).attempts(0).resumed_from_step(), 0);
  EXPECT_EQ(job(id).progress().tokens(), 400);
}

TEST_F(FailingStoreTest, StepsThatAreDoneAgainDoNotCountTwice) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  const auto held_for = [&](seconds time) { advance(time); };
  held_for(seconds(4));
  for (int step = 0; step < 4; ++step) report(channel, 1 + step, step_report(step));
  EXPECT_DOUBLE_EQ(goodput(), 2.0 / 4.0);
  v1::CheckpointInfo checkpoint;
  checkpoint.set_step(2);
  report(channel, 5, checkpoint);
  launcher_.end(id, 1, {.signal = 9});
  step();
  clock_.advance(config_.retry_pause);  // holds no slot meanwhile
  step();
  channel = join(id, 0, 1, 2);
  report(channel, 1, step_report(2));  // 2 and 3 are lost, 2 is done again
  EXPECT_DOUBLE_EQ(goodput(), 1.5 / 4.0);
  launcher_.end(id, 2, {.signal = 9});
  step();
  clock_.advance(2 * config_.retry_pause);
  step();
  channel = join(id, 0, 1, 3);
  report(channel, 1, step_report(2));  // lost steps are not lost twice
  EXPECT_DOUBLE_EQ(goodput(), 1.5 / 4.0);
}

TEST_F(FailingStoreTest, TheLastCheckpointsTimeStaysUntilTheJobIsDeleted) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  v1::CheckpointInfo info;
  info.set_step(2);
  info.mutable_create_time()->set_seconds(1'700'000'100);
  report(channel, 1, info);
  const auto shown = [&] {
    return registry_.value("emoe_checkpoint_last_success_timestamp_seconds", {{"job_id", id}});
  };
  EXPECT_EQ(shown(), 1'700'000'100);
  finish_well(id, channel, 2);
  EXPECT_EQ(shown(), 1'700'000'100);
  probe_.forget_job(id);
  restart();
  EXPECT_EQ(shown(), 1'700'000'100);
  ASSERT_TRUE(controller_->remove(id, "", false, {}).ok());
  EXPECT_FALSE(shown().has_value());
}

TEST_F(FailingStoreTest, FewerSlotsThanAreInUseAreNoNegativeNumber) {
  submit(2);
  step();
  config_.capacity.cpus = 1;
  restart();
  step();
  EXPECT_EQ(registry_.value("emoe_slots", {{"state", "used"}}), 2);
  EXPECT_EQ(registry_.value("emoe_slots", {{"state", "free"}}), 0);
}

TEST_F(FailingStoreTest, CancellingAgainRemembersItsRequest) {
  const std::string id = submit();
  step();
  const RequestKey first{"one", "CancelJob", "h"};
  const RequestKey second{"two", "CancelJob", "h"};
  ASSERT_EQ(controller_->cancel(id, "", first)->state(), v1::CANCELLING);
  ASSERT_EQ(controller_->cancel(id, "", second)->state(), v1::CANCELLING);
  launcher_.end(id, 1, {});
  step();
  ASSERT_EQ(job(id).state(), v1::CANCELLED);
  const RequestKey third{"three", "CancelJob", "h"};
  ASSERT_EQ(controller_->cancel(id, "", third)->state(), v1::CANCELLED);
  EXPECT_EQ(controller_->cancel(id, "", second)->state(), v1::CANCELLING);  // the first answer
  EXPECT_EQ(controller_->cancel(id, "", third)->state(), v1::CANCELLED);
  for (const char* used : {"one", "two", "three"}) {
    const auto other = controller_->cancel(id, "", {used, "CancelJob", "other"});
    EXPECT_EQ(reason(other.status()), "REQUEST_ID_REUSED") << used;
  }
}

TEST_F(FailingStoreTest, WhatADeletionLeftBehindGoesAtTheNextStart) {
  const std::filesystem::path outputs = config_.output_root / ".deleted-job-1";
  const std::filesystem::path state = config_.state_dir / "jobs" / ".deleted-job-1";
  std::filesystem::create_directories(outputs / "export");
  std::filesystem::create_directories(state / "attempt_1");
  restart();
  const auto gone = [&] { return !exists(outputs) && !exists(state); };
  for (int i = 0; i < 1000 && !gone(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(gone());
}

}  // namespace
}  // namespace emoe::server
