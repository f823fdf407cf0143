// How attempts begin and end when things go wrong around them: work that was finished before its
// attempt was given up, a coordinator that stood still, launches of unknown outcome, clocks that
// jump, endless repeats.
#include <fstream>

#include <google/protobuf/util/delimited_message_util.h>

#include "emoe/v1/report.pb.h"
#include "server/control/controller.h"
#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using launcher::FakeLauncher;
using launcher::StopMode;
using std::chrono::hours;
using std::chrono::seconds;

class AttemptEndTest : public ControllerTest {
 protected:
  // A running job of two ranks whose rank 0 has said that all is done.
  std::string finished_job_of_two() {
    const std::string id = submit(2);
    step();
    auto first = join(id, 0, 2);
    join(id, 1, 2);
    report(first, 1, phase("export"));
    report(first, 2, merge(true));
    report(first, 3, make_end(0));
    return id;
  }
  std::filesystem::path attempt_dir(const std::string& id, int attempt = 1) const {
    return config_.state_dir / "jobs" / id / ("attempt_" + std::to_string(attempt));
  }
};

TEST_F(AttemptEndTest, FinishedWorkOutlivesALostSession) {
  const std::string id = finished_job_of_two();
  launcher_.survive_kill(true);
  advance(config_.session_timeout);
  EXPECT_EQ(job(id).state(), v1::RECOVERING);  // rank 1 fell silent
  launcher_.end(id, 1, {.signal = 9, .rank = 1});
  step();
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_COMPLETED);
  EXPECT_EQ(job(id).message(), "completed");
}

// What an export is made of lies on the disk: the next attempt would find the same.
TEST_F(AttemptEndTest, AnExportThatIsRefusedIsNotTriedAgain) {
  const std::string id = submit(1);
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, phase("export"));
  report(channel, 2, make_end(70, "DATA_LOSS: the written model is not the trained one"));
  launcher_.end(id, 1, {.exit_code = 70});
  step();
  const v1::Job done = job(id);
  EXPECT_EQ(done.state(), v1::FAILED);
  EXPECT_EQ(done.reason(), v1::REASON_INTERNAL);
  EXPECT_EQ(done.attempts_size(), 1);
  EXPECT_NE(done.message().find("not the trained one"), std::string::npos) << done.message();
}

TEST_F(AttemptEndTest, FinishedWorkOutlivesAHang) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, merge(true));
  report(channel, 2, make_end(0));
  advance(config_.progress_timeout);  // its process does not end
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
  step();
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
}

TEST_F(AttemptEndTest, FinishedWorkOutlivesAnEngineThatForgot) {
  const std::string id = finished_job_of_two();
  launcher_.survive_kill(true);
  advance(config_.session_timeout);
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
  launcher_.forget(id, 1);
  restart();
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
}

TEST_F(AttemptEndTest, ACancelEndsFinishedWorkAllTheSame) {
  const std::string id = finished_job_of_two();
  ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
  launcher_.end(id, 1, {});
  step();
  EXPECT_EQ(job(id).state(), v1::CANCELLED);
}

TEST_F(AttemptEndTest, RanksAreNotToBlameForACoordinatorThatStoodStill) {
  const std::string id = submit(2);
  step();
  auto first = join(id, 0, 2);
  auto second = join(id, 1, 2);
  const auto beat = [&] {
    for (const auto& channel : {first, second}) controller_->post({channel, v1::RankHeartbeat()});
  };
  beat();
  clock_.advance(seconds(40));
  step();  // beats from before the gap only
  beat();
  step();
  clock_.advance(seconds(40));
  beat();  // from after it, still in the inbox
  step();
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  advance(config_.session_timeout);  // now they are silent
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_UNSPECIFIED);
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
}

TEST_F(AttemptEndTest, NorForACommitThatTookLong) {
  const std::string id = submit(2);
  step();
  auto first = join(id, 0, 2);
  join(id, 1, 2);
  before_commit_ = [this]() -> Status {
    clock_.advance(seconds(40));
    return ok_status();
  };
  report(first, 1, step_report(0));
  before_commit_ = [] { return ok_status(); };
  step();
  EXPECT_EQ(job(id).state(), v1::RUNNING);
}

TEST_F(AttemptEndTest, AHandleThatCouldNotBeStoredStartsNothingTwice) {
  const std::string id = submit();
  fail_commits(1, 1);  // the attempt is stored, its handle is not
  step();
  ASSERT_EQ(launcher_.launches().size(), 1U);
  step();
  EXPECT_EQ(store_->attempts(id)->back().handle, "");
  // Nor does a folder that cannot be written any more.
  std::filesystem::remove_all(config_.state_dir / "jobs");
  std::ofstream(config_.state_dir / "jobs") << "in the way";
  step();
  EXPECT_EQ(launcher_.launches().size(), 1U);
  EXPECT_EQ(store_->attempts(id)->back().handle, FakeLauncher::handle_of(id, 1).text);
  EXPECT_EQ(job(id).state(), v1::STARTING);
  EXPECT_EQ(job(id).attempts_size(), 1);
}

TEST_F(AttemptEndTest, ALaunchThatFailedHalfwayIsRemovedBeforeTheNext) {
  const std::string id = submit();
  launcher_.fail_launches(absl::InternalError("the answer was lost"), true);
  launcher_.survive_kill(true);
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
  launcher_.fail_launches(ok_status());
  advance(seconds(60));
  EXPECT_EQ(launcher_.launches().size(), 1U);
  EXPECT_EQ(launcher_.stops().back(), (FakeLauncher::Stop{id, 1, StopMode::kill}));
  launcher_.end(id, 1, {.signal = 9});
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(job(id).attempts(0).message(), "launch: the answer was lost");
  advance(config_.retry_pause);
  EXPECT_EQ(launcher_.launches().size(), 2U);
}

TEST_F(AttemptEndTest, ACancelBeforeTheLaunchLaunchesNothing) {
  const std::string id = submit();
  controller_->step();  // the engine is not asked yet
  EXPECT_EQ(job(id).state(), v1::STARTING);
  ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
  controller_->step();
  step();
  EXPECT_EQ(job(id).state(), v1::CANCELLED);
  EXPECT_TRUE(launcher_.launches().empty());
}

TEST_F(AttemptEndTest, AnEndThatIsNoRanksNamesTheProcess) {
  const std::string id = submit();
  step();
  launcher_.end(id, 1, {.signal = 9, .process = "mpirun"});
  step();
  EXPECT_EQ(job(id).attempts(0).message(), "mpirun: signal 9");
}

TEST_F(AttemptEndTest, RanksShareTheCoresWithOtherJobs) {
  config_.cores = 8;
  config_.capacity.cpus = 4;
  restart();
  submit(2);
  step();
  EXPECT_EQ(launcher_.launches()[0].threads_per_rank, 2);
}

TEST_F(AttemptEndTest, WhatTheCoordinatorWasToldOfThreadsHolds) {
  config_.cores = 8;
  config_.threads_per_rank = 3;
  restart();
  submit(2);
  step();
  EXPECT_EQ(launcher_.launches()[0].threads_per_rank, 3);
}

TEST_F(AttemptEndTest, RequeuesWithoutProgressPauseLongerAndLonger) {
  launcher_.fail_launches(absl::ResourceExhaustedError("no node is free"));
  const std::string id = submit();
  step();
  step();
  for (const seconds pause : {seconds(5), seconds(10), seconds(20), seconds(40)}) {
    const int attempts = newest_attempt(job(id));
    restart();  // the count survives
    advance(pause - seconds(1));
    EXPECT_EQ(newest_attempt(job(id)), attempts);
    advance(seconds(1));
    EXPECT_EQ(newest_attempt(job(id)), attempts + 1);
    step();
  }
  EXPECT_EQ(job(id).state(), v1::QUEUED);
}

TEST_F(AttemptEndTest, PreemptionsWithProgressPauseAsBefore) {
  const std::string id = submit();
  step();
  for (int attempt = 1; attempt <= 25; ++attempt) {
    auto channel = join(id, 0, 1, attempt);
    report(channel, 1, step_report(attempt));
    launcher_.end(id, attempt, {.exit_code = 75});
    step();
    advance(config_.retry_pause);
    ASSERT_EQ(newest_attempt(job(id)), attempt + 1);
  }
  // The job shows the newest only; the store has a row of each.
  EXPECT_EQ(job(id).attempts_size(), 20);
  EXPECT_EQ(job(id).attempts(19).number(), 26);
  EXPECT_EQ(store_->attempts(id)->size(), 26U);
}

TEST_F(AttemptEndTest, JumpsOfTheWallClockChangeNothing) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_resources()->mutable_max_runtime()->set_seconds(60);
  const std::string id = submit(spec);
  step();
  join(id, 0, 1);
  clock_.jump_wall(hours(24));
  step();
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  launcher_.end(id, 1, {.signal = 11});
  step();
  clock_.jump_wall(-hours(48));
  advance(config_.retry_pause);
  EXPECT_EQ(launcher_.launches().size(), 2U);
  launcher_.end(id, 2, {.signal = 11});
  step();
  clock_.jump_wall(-hours(48));
  restart();  // the pause is known by the wall clock only: it is no longer than the longest
  advance(64 * config_.retry_pause);
  EXPECT_EQ(launcher_.launches().size(), 3U);
}

TEST_F(AttemptEndTest, MaxRuntimeCountsOverAttemptsAndRestarts) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_resources()->mutable_max_runtime()->set_seconds(40);
  const std::string id = submit(spec);
  step();
  advance(seconds(25));
  auto channel = join(id, 0, 1);
  restart();
  channel = join(id, 0, 1);
  advance(seconds(10));
  launcher_.end(id, 1, {.signal = 11});
  step();
  advance(config_.retry_pause);
  channel = join(id, 0, 1, 2);
  advance(seconds(4));
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  advance(seconds(1));
  EXPECT_EQ(channel->commands, std::vector{RankCommand::checkpoint_and_stop});
}

TEST_F(AttemptEndTest, AMaxRuntimeBelowASecondIsALimitToo) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_resources()->mutable_max_runtime()->set_nanos(500'000'000);
  const std::string id = submit(spec);
  step();
  auto channel = join(id, 0, 1);
  advance(std::chrono::milliseconds(499));
  EXPECT_TRUE(channel->commands.empty());
  advance(std::chrono::milliseconds(1));
  EXPECT_EQ(channel->commands, std::vector{RankCommand::checkpoint_and_stop});
}

TEST_F(AttemptEndTest, WhatRanksCouldNotTellIsReadBeforeTheJudgement) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, phase("train"));
  report(channel, 2, step_report(0));
  // The coordinator goes away; the rank finishes, gives up telling and leaves what was not
  // acknowledged, here with one report that was.
  {
    std::ofstream file(attempt_dir(id) / "rank_0.reports", std::ios::binary);
    int64_t sequence = 1;
    const auto write = [&](const std::function<void(v1::Report&)>& fill) {
      v1::Report report;
      report.set_sequence(++sequence);
      fill(report);
      google::protobuf::util::SerializeDelimitedToOstream(report, &file);
    };
    for (int64_t step = 0; step < 4; ++step) {
      write([&](v1::Report& r) { *r.mutable_step()->mutable_metrics() = step_report(step); });
    }
    write([](v1::Report& r) { r.mutable_phase()->set_phase("export"); });
    write([](v1::Report& r) { r.mutable_merge()->set_verified(true); });
    write([](v1::Report& r) { r.mutable_end()->set_exit_code(0); });
    file << '\x50';  // and the beginning of a report that never came
  }
  launcher_.end(id, 1, {});
  restart();
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
  EXPECT_EQ(job(id).attempts_size(), 1);
  EXPECT_EQ(job(id).progress().step(), 4);
  EXPECT_EQ(job(id).progress().tokens(), 400);
  EXPECT_EQ(store_->steps(id, 0, 100)->size(), 4U);
  EXPECT_EQ(*store_->committed_sequence(id, 1, 0), 8);
}

TEST_F(AttemptEndTest, LeftReportsWithAGapOrNoSenseCountAsFarAsTheyGo) {
  const std::string id = submit(2);
  step();
  join(id, 0, 2);
  join(id, 1, 2);
  {
    std::ofstream file(attempt_dir(id) / "rank_0.reports", std::ios::binary);
    for (const int64_t sequence : {1, 2, 4}) {
      v1::Report report;
      report.set_sequence(sequence);
      report.mutable_log()->set_text("text");
      google::protobuf::util::SerializeDelimitedToOstream(report, &file);
    }
    std::ofstream(attempt_dir(id) / "rank_1.reports") << std::string(100, '\xff');
  }
  launcher_.end(id, 1, {.exit_code = 71, .rank = 0});
  step();
  EXPECT_EQ(*store_->committed_sequence(id, 1, 0), 2);
  EXPECT_EQ(job(id).state(), v1::QUEUED);
}

TEST_F(AttemptEndTest, AJobThatNoLongerFitsWaitsAndSaysSo) {
  const std::string id = submit(2);
  config_.capacity.cpus = 1;
  restart();
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(job(id).message(), "can never run here: needs 2 slots, the service has 1");
  const std::string small = submit();
  step();
  EXPECT_EQ(job(small).state(), v1::STARTING);
  EXPECT_EQ(controller_->slots().free, 0);
}

}  // namespace
}  // namespace emoe::server
