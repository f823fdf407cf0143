// The coordinator dies at every point of a job's life and comes back: nothing is lost, nothing runs
// twice.
#include "base/file.h"
#include "server/control/controller.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using launcher::FakeLauncher;
using launcher::StopMode;
using std::chrono::seconds;

class RestartTest : public ControllerTest {};

TEST_F(RestartTest, AQueuedJobIsStillQueued) {
  const std::string id = submit();
  restart();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  step();
  EXPECT_EQ(launcher_.launches().size(), 1U);
}

TEST_F(RestartTest, ARunningAttemptIsTakenUpAndNotStartedAgain) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, step_report(0));
  report(channel, 2, step_report(1));
  restart();
  step();
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  EXPECT_EQ(controller_->slots().free, 1);
  channel = join(id, 0, 1);
  EXPECT_EQ(channel->welcomed, 2);
  report(channel, 2, step_report(1));  // the ack was lost with the coordinator
  report(channel, 3, step_report(2));
  EXPECT_EQ(job(id).progress().step(), 3);
  EXPECT_EQ(job(id).progress().tokens(), 300);
  finish_well(id, channel, 4);
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
  EXPECT_EQ(launcher_.launches().size(), 1U);
  EXPECT_EQ(job(id).attempts_size(), 1);
}

TEST_F(RestartTest, AnAttemptStoredButNotLaunchedIsLaunchedOnce) {
  const std::string id = submit();
  step();
  // As if the crash came before the handle was stored: the engine knows the attempt, the store not.
  auto attempts = store_->attempts(id);
  ASSERT_TRUE(attempts.ok());
  Change change;
  attempts->back().handle.clear();
  change.attempts = *attempts;
  ASSERT_TRUE(store_->commit(change).ok());
  restart();
  step();
  step();
  EXPECT_EQ(launcher_.launches().size(), 1U);
  EXPECT_EQ(store_->attempts(id)->back().handle, FakeLauncher::handle_of(id, 1).text);
  join(id, 0, 1);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
}

TEST_F(RestartTest, AWishThatDiedWithTheCoordinatorIsCarriedOutByTheNext) {
  const std::string id = submit();
  controller_->step();  // the engine is not asked any more
  restart();
  step();
  EXPECT_EQ(launcher_.launches().size(), 1U);
  join(id, 0, 1);
  ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
  controller_->step();
  restart();
  advance(config_.stop_grace);
  step();
  advance(config_.stop_grace);
  step();
  EXPECT_EQ(job(id).state(), v1::CANCELLED);
  EXPECT_EQ(launcher_.launches().size(), 1U);
}

// Its siblings go on: a damaged row must not keep the coordinator from starting.
TEST_F(RestartTest, AStoredJobWithoutRanksFailsByItself) {
  const std::string running = submit();
  step();
  join(running, 0, 1);
  const std::string waiting = submit();
  const std::string sound = submit();
  for (const std::string& id : {running, waiting}) {
    auto record = store_->job(id);
    ASSERT_TRUE(record.ok());
    record->job.mutable_resolved_spec()->clear_parallel();
    Change change;
    change.job = *record;
    ASSERT_TRUE(store_->commit(change).ok());
  }
  restart();
  step();
  step();
  launcher_.end(running, 1, {.signal = 9});
  step();
  for (const std::string& id : {running, waiting}) {
    EXPECT_EQ(job(id).state(), v1::FAILED) << job(id).message();
    EXPECT_EQ(job(id).reason(), v1::REASON_START_FAILED);
  }
  EXPECT_NE(job(running).message().find("parallel.ranks = 0"), std::string::npos)
      << job(running).message();
  EXPECT_EQ(job(sound).state(), v1::STARTING);
}

TEST_F(RestartTest, AnAttemptThatIsGoneIsRetried) {
  const std::string id = submit();
  step();
  join(id, 0, 1);
  launcher_.forget(id, 1);
  restart();
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_COORDINATOR_LOST);
  advance(seconds(5));
  EXPECT_EQ(launcher_.launches().size(), 2U);
  EXPECT_EQ(job(id).attempts_size(), 2);
}

TEST_F(RestartTest, AnAttemptThatEndedMeanwhileIsJudgedByItsExit) {
  const std::string id = submit();
  step();
  join(id, 0, 1);
  launcher_.end(id, 1, {.exit_code = 76, .rank = 0});
  restart();
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::FAILED);
  EXPECT_EQ(job(id).reason(), v1::REASON_NON_FINITE);
}

TEST_F(RestartTest, AnExportingAttemptFinishes) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, phase("export"));
  restart();
  EXPECT_EQ(job(id).state(), v1::EXPORTING);
  channel = join(id, 0, 1);
  report(channel, 2, merge(true));
  report(channel, 3, make_end(0));
  restart();  // between rank 0's End report and the end of its process
  launcher_.end(id, 1, {});
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
  EXPECT_EQ(launcher_.launches().size(), 1U);
}

TEST_F(RestartTest, RanksThatDoNotReconnectAreLost) {
  const std::string id = submit();
  step();
  join(id, 0, 1);
  restart();
  advance(config_.join_timeout);
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_PEER_LOST);
}

TEST_F(RestartTest, ACancelGoesOn) {
  const std::string id = submit();
  step();
  join(id, 0, 1);
  ASSERT_TRUE(controller_->cancel(id, "enough", {}).ok());
  restart();
  EXPECT_EQ(job(id).state(), v1::CANCELLING);
  step();
  EXPECT_EQ(launcher_.stops().back(), (FakeLauncher::Stop{id, 1, StopMode::graceful}));
  advance(config_.stop_grace);
  step();
  EXPECT_EQ(job(id).state(), v1::CANCELLED);
  EXPECT_EQ(job(id).message(), "enough");
}

TEST_F(RestartTest, AnAttemptThatMustGoIsRemovedByTheNextCoordinator) {
  const std::string id = submit();
  step();
  launcher_.survive_kill(true);
  advance(config_.join_timeout);
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
  launcher_.survive_kill(false);
  restart();
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_START_FAILED);
}

TEST_F(RestartTest, ARetrysPauseAndCountSurvive) {
  const std::string id = submit(1, 0, 2);
  step();
  launcher_.end(id, 1, {.signal = 9});
  step();
  restart();
  step();
  EXPECT_EQ(launcher_.launches().size(), 1U);
  advance(seconds(5));
  EXPECT_EQ(launcher_.launches().size(), 2U);
  launcher_.end(id, 2, {.signal = 9});
  step();
  EXPECT_EQ(job(id).state(), v1::FAILED);
}

TEST_F(RestartTest, TwoCoordinatorsOnOneFolderAreRefused) {
  const auto second = JobStore::open({config_.state_dir, {}});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kAborted);
  EXPECT_NE(std::string(second.status().message()).find("another coordinator"), std::string::npos);
}

TEST_F(RestartTest, WarningsStayWithTheJobAndAreStoredOnce) {
  const v1::JobSpec spec = small_spec(dir_.path());
  const auto created =
      controller_->create({.spec = spec,
                           .resolved = config::resolve(spec),
                           .warnings = {{"UNREAD_KEY", "3 rows", "data.train", 3, "a.json:1"}}},
                          {});
  ASSERT_TRUE(created.ok());
  ASSERT_EQ(created->warnings_size(), 1);
  EXPECT_EQ(created->warnings(0).first(), "a.json:1");
  const std::string id = created->id();
  step();
  EXPECT_EQ(read_file(config_.job_dir(id) / "warnings.json").value(),
            "[\n {\n  \"code\": \"UNREAD_KEY\",\n  \"text\": \"3 rows\",\n  \"where\": "
            "\"data.train\",\n  \"count\": 3,\n  \"first\": \"a.json:1\"\n }\n]\n");
  auto channel = join(id, 0, 1);
  report(channel, 1, created->warnings(0));  // found by the rank too
  report(channel, 2, make_warning("ROWS_CUT", "data.train", 2));
  launcher_.end(id, 1, {.signal = 9});
  step();
  advance(seconds(6));
  ASSERT_EQ(launcher_.launches().size(), 2u);
  channel = join(id, 0, 1, 2);
  report(channel, 1, make_warning("ROWS_CUT", "data.train", 2));  // once more
  report(channel, 2, make_warning("ROWS_CUT", "data.eval", 2));
  report(channel, 3, make_warning("ROWS_CUT", "data.train", 4));  // takes the place of the first
  restart();
  const v1::Job found = job(id);
  ASSERT_EQ(found.warnings_size(), 3);
  EXPECT_EQ(found.warnings(1).where(), "data.train");
  EXPECT_EQ(found.warnings(1).count(), 4);
  int events = 0;
  const auto stored = store_->events(id, 1, 1000);
  ASSERT_TRUE(stored.ok()) << stored.status();
  for (const v1::Event& event : *stored) events += event.has_warning() ? 1 : 0;
  EXPECT_EQ(events, 4);
  EXPECT_EQ(registry_.value("emoe_job_warnings_total", {{"code", "ROWS_CUT"}}), 3);
  EXPECT_EQ(registry_.value("emoe_job_warnings_total", {{"code", "UNREAD_KEY"}}), 1);
}

}  // namespace
}  // namespace emoe::server
