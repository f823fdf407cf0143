#include "server/control/controller.h"

#include <future>

#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using launcher::FakeLauncher;
using launcher::StopMode;
using States = std::vector<v1::JobState>;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_F(ControllerTest, RunsAJobFromQueueToSuccess) {
  const std::string id = submit();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  step();
  ASSERT_EQ(launcher_.launches().size(), 1U);
  const launcher::LaunchRequest launch = launcher_.launches()[0];
  const std::string spec_file = (dir_ / "state" / "jobs").string() + "/" + id + "/job.yaml";
  EXPECT_EQ(launch.worker_argv,
            (std::vector<std::string>{"/opt/emoe-worker", "run", spec_file, "--out",
                                      (dir_ / "outputs").string() + "/" + id}));
  EXPECT_EQ(launch.environment.at("EMOE_COORDINATOR"), "127.0.0.1:7070");
  EXPECT_TRUE(std::filesystem::exists(spec_file));
  EXPECT_EQ(job(id).state(), v1::STARTING);

  auto channel = join(id, 0, 1);
  EXPECT_EQ(channel->welcomed, 0);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  report(channel, 1, phase("train"));
  for (int step = 0; step < 4; ++step) report(channel, 2 + step, step_report(step));
  EXPECT_EQ(channel->acked, 5);
  EXPECT_EQ(job(id).progress().step(), 4);
  EXPECT_EQ(job(id).progress().tokens(), 400);
  EXPECT_DOUBLE_EQ(job(id).progress().tokens_per_second(), 200);
  finish_well(id, channel, 6);
  const v1::Job done = job(id);
  EXPECT_EQ(done.state(), v1::SUCCEEDED);
  EXPECT_EQ(done.reason(), v1::REASON_COMPLETED);
  EXPECT_TRUE(done.has_end_time());
  EXPECT_EQ(history(id),
            (States{v1::QUEUED, v1::STARTING, v1::RUNNING, v1::EXPORTING, v1::SUCCEEDED}));
  EXPECT_EQ(channel->closed->code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(registry_.value("emoe_jobs_finished_total",
                            {{"outcome", "succeeded"}, {"reason", "completed"}}),
            1);
}

TEST_F(ControllerTest, ExitCodeZeroAloneIsNoSuccess) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, merge(false));  // exported, but the check did not hold
  report(channel, 2, make_end(0));
  launcher_.end(id, 1, {});
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_INTERNAL);
}

TEST_F(ControllerTest, WaitsALittleForTheWordOfRankZero) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, merge(true));
  launcher_.end(id, 1, {});
  advance(seconds(1));
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  report(channel, 2, make_end(0));
  EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
}

TEST_F(ControllerTest, EachFailureClassHasItsConsequence) {
  struct Case {
    launcher::AttemptEnd end;
    v1::Reason reason;
    v1::JobState state;
    bool counted;
  };
  const std::vector<Case> cases = {
      {{.exit_code = 64}, v1::REASON_CONFIGURATION, v1::FAILED, true},
      {{.exit_code = 65}, v1::REASON_DATA, v1::FAILED, true},
      {{.exit_code = 71}, v1::REASON_PEER_LOST, v1::QUEUED, true},
      {{.exit_code = 74}, v1::REASON_IO, v1::QUEUED, true},
      {{.exit_code = 75}, v1::REASON_PREEMPTED, v1::QUEUED, false},
      {{.exit_code = 76}, v1::REASON_NON_FINITE, v1::FAILED, true},
      {{.signal = 9, .out_of_memory = true}, v1::REASON_OUT_OF_MEMORY, v1::FAILED, true},
      {{.signal = 9, .rank = 0}, v1::REASON_PEER_LOST, v1::QUEUED, true},
      {{.signal = 15}, v1::REASON_PREEMPTED, v1::QUEUED, false},
  };
  for (const Case& c : cases) {
    const std::string id = submit();
    step();
    join(id, 0, 1);
    launcher_.end(id, 1, c.end);
    step();
    const v1::Job ended = job(id);
    EXPECT_EQ(ended.state(), c.state) << c.end.exit_code << " " << c.end.signal;
    EXPECT_EQ(ended.attempts(0).reason(), c.reason) << c.end.exit_code << " " << c.end.signal;
    EXPECT_EQ(ended.attempts(0).counted(), c.counted) << c.end.exit_code;
    if (!is_terminal(ended.state())) {
      ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
    }
    step();
  }
}

TEST_F(ControllerTest, TheRanksOwnWordNamesTheCause) {
  const std::string id = submit(2);
  step();
  auto first = join(id, 0, 2);
  auto second = join(id, 1, 2);
  report(first, 1, make_end(71, "peer lost"));
  report(second, 1, make_end(65, "train.jsonl:3: row is empty"));
  launcher_.end(id, 1, {.exit_code = 71, .rank = 0});
  step();
  EXPECT_EQ(job(id).state(), v1::FAILED);
  EXPECT_EQ(job(id).reason(), v1::REASON_DATA);
  EXPECT_EQ(job(id).message(), "rank 1 on host n1: train.jsonl:3: row is empty");
}

TEST_F(ControllerTest, RetriesPauseAndDoubleUntilAttemptsAreExhausted) {
  const std::string id = submit();
  step();
  const std::vector<seconds> pauses = {seconds(5), seconds(10)};
  for (int attempt = 1; attempt <= 3; ++attempt) {
    ASSERT_EQ(static_cast<int>(launcher_.launches().size()), attempt);
    launcher_.end(id, attempt, {.signal = 11, .rank = 0});
    step();
    if (attempt == 3) break;
    EXPECT_EQ(job(id).state(), v1::QUEUED);
    EXPECT_NE(job(id).message().find("before the next attempt"), std::string::npos);
    advance(pauses[static_cast<size_t>(attempt - 1)] - milliseconds(1));
    EXPECT_EQ(job(id).state(), v1::QUEUED);
    advance(milliseconds(1));
    EXPECT_EQ(job(id).state(), v1::STARTING);
  }
  EXPECT_EQ(job(id).state(), v1::FAILED);
  EXPECT_EQ(job(id).reason(), v1::REASON_ATTEMPTS_EXHAUSTED);
  EXPECT_EQ(job(id).attempts(2).reason(), v1::REASON_PEER_LOST);
}

TEST_F(ControllerTest, ARetryGoesBackToItsCheckpointInTheCounts) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  for (int step = 0; step < 3; ++step) report(channel, 1 + step, step_report(step));
  launcher_.end(id, 1, {.signal = 9, .rank = 0});
  step();
  advance(seconds(6));
  channel = join(id, 0, 1, 2);
  EXPECT_EQ(channel->welcomed, 0);  // sequences begin anew with each attempt
  report(channel, 1, step_report(2, 70));
  const v1::Job now = job(id);
  EXPECT_EQ(now.attempts(1).resumed_from_step(), 2);
  EXPECT_EQ(now.progress().tokens(), 270);
  EXPECT_EQ(now.progress().step(), 3);
  const auto steps = store_->steps(id, 0, 100);
  ASSERT_EQ(steps->size(), 3U);
  EXPECT_EQ((*steps)[2].attempt(), 2);
}

TEST_F(ControllerTest, ACheckpointThatOnlyItsSuccessorTellsOfIsStored) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  for (int step = 0; step < 3; ++step) report(channel, 1 + step, step_report(step));
  const auto steps_of = [&] {
    std::vector<int64_t> steps;
    const auto stored = store_->checkpoints(id, 100);
    for (const auto& info : *stored) steps.push_back(info.step());
    return steps;
  };
  v1::CheckpointInfo at_two;
  at_two.set_step(2);
  for (const int attempt : {2, 3}) {
    launcher_.end(id, attempt - 1, {.signal = 9, .rank = 0});
    step();
    advance(seconds(11));
    channel = join(id, 0, 1, attempt);
    report(channel, 1, Resumed{at_two});
    // Known before the first step, and if there is none: only the export may be left.
    EXPECT_EQ(job(id).attempts(attempt - 1).resumed_from_step(), 2);
    EXPECT_EQ(job(id).progress().step(), 2);
    EXPECT_EQ(job(id).progress().tokens(), 200);
    EXPECT_EQ(steps_of(), std::vector<int64_t>{2});
  }
  const auto events = store_->events(id, 0, 100);
  EXPECT_EQ(std::ranges::count_if(*events, &v1::Event::has_checkpoint), 1);
}

TEST_F(ControllerTest, RankZeroMayExportBeforeTheLastSessionIsThere) {
  const std::string id = submit(2);
  step();
  auto channel = join(id, 0, 2);
  report(channel, 1, phase("export"));
  EXPECT_EQ(job(id).state(), v1::STARTING);
  join(id, 1, 2);
  EXPECT_EQ(history(id), (States{v1::QUEUED, v1::STARTING, v1::RUNNING, v1::EXPORTING}));
  // What one attempt exported does not make the next one export.
  launcher_.end(id, 1, {.signal = 9, .rank = 0});
  step();
  advance(seconds(6));
  join(id, 0, 2, 2);
  join(id, 1, 2, 2);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
}

TEST_F(ControllerTest, SilenceOfARankEndsTheAttempt) {
  const std::string id = submit(2);
  step();
  auto first = join(id, 0, 2);
  join(id, 1, 2);
  for (int second = 0; second < 30; ++second) {
    controller_->post({first, make_heartbeat(second, "forward", second, second)});
    advance(seconds(1));
  }
  EXPECT_EQ(launcher_.stops().back(), (FakeLauncher::Stop{id, 1, StopMode::kill}));
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_PEER_LOST);
  EXPECT_NE(job(id).attempts(0).message().find("rank 1 on host n1"), std::string::npos);
}

TEST_F(ControllerTest, AnotherWorldSizeEndsTheJobAtOnce) {
  const std::string id = submit(2);
  step();
  auto channel = join(id, 0, 1);
  ASSERT_TRUE(channel->closed.has_value());
  EXPECT_EQ(error_detail_of(*channel->closed).reason, "WORLD_SIZE_MISMATCH");
  step();
  EXPECT_EQ(job(id).state(), v1::FAILED);
  EXPECT_EQ(job(id).reason(), v1::REASON_START_FAILED);
}

TEST_F(ControllerTest, RanksThatDoNotJoinInTimeAreGivenUp) {
  const std::string id = submit(2);
  step();
  auto second = join(id, 1, 2);
  for (seconds waited{0}; waited < config_.join_timeout; waited += seconds(1)) {
    controller_->post({second, v1::RankHeartbeat()});
    advance(seconds(1));
  }
  step();
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_START_FAILED);
  const std::string message = job(id).attempts(0).message();
  EXPECT_NE(message.find("(ranks 0); they were told to connect to 127.0.0.1:7070"),
            std::string::npos)
      << message;
}

TEST_F(ControllerTest, RefusesStrangersAndStaleAttempts) {
  const std::string id = submit();
  step();
  const auto try_join = [&](const std::string& job_id, int attempt, const std::string& token) {
    auto channel = std::make_shared<FakeChannel>();
    controller_->post({channel, make_join(job_id, attempt, token, 0, 1)});
    step();
    return channel->closed ? error_detail_of(*channel->closed).reason : "joined";
  };
  EXPECT_EQ(try_join("job-none", 1, ""), "JOB_NOT_FOUND");
  EXPECT_EQ(try_join(id, 1, "guess"), "BAD_TOKEN");
  EXPECT_EQ(try_join(id, 7, token(id, 1)), "STALE_ATTEMPT");
  EXPECT_EQ(try_join(id, 1, token(id, 1)), "joined");
  launcher_.end(id, 1, {.exit_code = 64});
  step();
  EXPECT_EQ(try_join(id, 1, token(id, 1)), "STALE_ATTEMPT");
}

TEST_F(ControllerTest, ReportsAreStoredOnceAndWithoutGaps) {
  const std::string id = submit();
  step();
  auto channel = join(id, 0, 1);
  report(channel, 1, step_report(0));
  report(channel, 1, step_report(0));  // sent again after a lost ack
  EXPECT_EQ(channel->acked, 1);
  EXPECT_EQ(job(id).progress().tokens(), 100);
  auto again = join(id, 0, 1);  // a new stream replaces the old one
  EXPECT_EQ(again->welcomed, 1);
  EXPECT_TRUE(channel->closed.has_value());
  report(again, 3, step_report(2));
  ASSERT_TRUE(again->closed.has_value());
  EXPECT_EQ(error_detail_of(*again->closed).reason, "SEQUENCE_GAP");
}

TEST_F(ControllerTest, CancelsInEveryState) {
  // QUEUED: at once.
  const std::string queued = submit();
  EXPECT_EQ(controller_->cancel(queued, "why", {})->state(), v1::CANCELLED);
  EXPECT_EQ(controller_->cancel(queued, "", {})->state(), v1::CANCELLED);
  EXPECT_EQ(job(queued).message(), "why");
  // STARTING: nobody has joined, so the launcher's signal comes at once, the kill after the grace.
  const std::string starting = submit();
  step();
  EXPECT_EQ(controller_->cancel(starting, "", {})->state(), v1::CANCELLING);
  EXPECT_EQ(controller_->cancel(starting, "", {})->state(), v1::CANCELLING);
  step();
  EXPECT_EQ(launcher_.stops().back(), (FakeLauncher::Stop{starting, 1, StopMode::graceful}));
  EXPECT_EQ(job(starting).state(), v1::CANCELLING);
  advance(config_.stop_grace);
  EXPECT_EQ(launcher_.stops().back(), (FakeLauncher::Stop{starting, 1, StopMode::kill}));
  step();
  EXPECT_EQ(job(starting).state(), v1::CANCELLED);
  // RUNNING: by the session first.
  const std::string running = submit();
  step();
  auto channel = join(running, 0, 1);
  ASSERT_TRUE(controller_->cancel(running, "", {}).ok());
  const size_t stops = launcher_.stops().size();
  step();
  EXPECT_EQ(channel->commands, std::vector{RankCommand::stop});
  EXPECT_EQ(launcher_.stops().size(), stops);
  auto back = join(running, 0, 1);  // a rank that reconnects hears it again
  EXPECT_EQ(back->commands, std::vector{RankCommand::stop});
  report(back, 1, make_end(75, "stopped"));  // a rank that reported its end needs no signal
  controller_->post({back, SessionClosed{}});
  step();
  EXPECT_EQ(launcher_.stops().size(), stops);
  launcher_.end(running, 1, {});
  step();
  EXPECT_EQ(job(running).state(), v1::CANCELLED);
  // EXPORTING.
  const std::string exporting = submit();
  step();
  channel = join(exporting, 0, 1);
  report(channel, 1, phase("export"));
  EXPECT_EQ(job(exporting).state(), v1::EXPORTING);
  EXPECT_EQ(controller_->cancel(exporting, "", {})->state(), v1::CANCELLING);
  launcher_.end(exporting, 1, {.exit_code = 75});
  step();
  EXPECT_EQ(job(exporting).state(), v1::CANCELLED);
}

TEST_F(ControllerTest, CancelsWhileRecoveringAndRefusesWhatHasEnded) {
  const std::string recovering = submit();
  step();
  launcher_.survive_kill(true);
  advance(config_.join_timeout);
  EXPECT_EQ(job(recovering).state(), v1::RECOVERING);
  EXPECT_EQ(controller_->cancel(recovering, "", {})->state(), v1::CANCELLING);
  advance(seconds(60));
  EXPECT_EQ(job(recovering).state(), v1::CANCELLING);  // not before the processes are gone
  launcher_.end(recovering, 1, {.signal = 9});
  step();
  EXPECT_EQ(job(recovering).state(), v1::CANCELLED);

  const std::string failed = submit();
  step();
  launcher_.end(failed, 1, {.exit_code = 64});
  step();
  const auto refused = controller_->cancel(failed, "", {});
  EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(error_detail_of(refused.status()).reason, "WRONG_STATE");
}

TEST_F(ControllerTest, MaxRuntimeCheckpointsAndFails) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_resources()->mutable_max_runtime()->set_seconds(60);
  const std::string id = submit(spec);
  step();
  auto channel = join(id, 0, 1);
  for (int i = 0; i < 60; ++i) {
    controller_->post({channel, make_heartbeat(i, "forward", i, i)});
    advance(seconds(1));
  }
  EXPECT_EQ(channel->commands, std::vector{RankCommand::checkpoint_and_stop});
  launcher_.end(id, 1, {.exit_code = 75});
  step();
  EXPECT_EQ(job(id).state(), v1::FAILED);
  EXPECT_EQ(job(id).reason(), v1::REASON_MAX_RUNTIME);
}

TEST_F(ControllerTest, QueuesInOrderAndSaysWhyAJobWaits) {
  const std::string wide = submit(2);
  step();
  const std::string low = submit(1, 0);
  clock_.advance(seconds(1));
  const std::string high = submit(2, 5);
  step();
  EXPECT_EQ(job(high).queue_position(), 1);
  EXPECT_EQ(job(low).queue_position(), 2);
  EXPECT_EQ(job(high).message(),
            "waits for 2 of 2 slots (0 free); position 1; " + wide + " uses 2");
  EXPECT_EQ(controller_->slots().free, 0);
  ASSERT_TRUE(controller_->update(low, {.priority = 9}, "", {}).ok());
  step();
  EXPECT_EQ(job(low).queue_position(), 1);
}

TEST_F(ControllerTest, RefusesWhatCanNeverRunAndAFullQueue) {
  const v1::JobSpec wide = small_spec(dir_.path(), 3);
  const auto never = controller_->create({.spec = wide, .resolved = config::resolve(wide)}, {});
  EXPECT_EQ(error_detail_of(never.status()).reason, "NOT_ENOUGH_SLOTS");
  for (int i = 0; i < config_.max_jobs; ++i) submit();
  const v1::JobSpec spec = small_spec(dir_.path());
  const auto full = controller_->create({.spec = spec, .resolved = config::resolve(spec)}, {});
  EXPECT_EQ(full.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(error_detail_of(full.status()).reason, "QUEUE_FULL");
}

TEST_F(ControllerTest, EngineThatCannotLaunch) {
  launcher_.fail_launches(absl::FailedPreconditionError("mpirun is not installed"));
  const std::string missing = submit();
  step();
  step();
  EXPECT_EQ(job(missing).state(), v1::FAILED);
  EXPECT_EQ(job(missing).message(), "launch: mpirun is not installed");
  launcher_.fail_launches(absl::ResourceExhaustedError("no node is free"));
  const std::string busy = submit();
  step();
  step();
  EXPECT_EQ(job(busy).state(), v1::QUEUED);
  EXPECT_FALSE(job(busy).attempts(0).counted());
  launcher_.fail_launches(ok_status());
  advance(config_.retry_pause);
  EXPECT_EQ(job(busy).state(), v1::STARTING);
}

TEST_F(ControllerTest, MachineThatCannotLaunchCountsAsAnIoError) {
  launcher_.fail_launches(absl::DataLossError("cannot write launch.json: No space left"));
  const std::string id = submit();
  step();
  step();
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_IO);
  EXPECT_TRUE(job(id).attempts(0).counted());
}

TEST_F(ControllerTest, RepeatsOfARequestGetTheFirstAnswer) {
  const v1::JobSpec spec = small_spec(dir_.path());
  const RequestKey key{"r1", "CreateJob", "hash"};
  const auto first = controller_->create({.spec = spec, .resolved = config::resolve(spec)}, key);
  step();
  const auto again = controller_->create({.spec = spec, .resolved = config::resolve(spec)}, key);
  EXPECT_EQ(again->SerializeAsString(), first->SerializeAsString());
  const auto other = controller_->create({.spec = spec, .resolved = config::resolve(spec)},
                                         {"r1", "CreateJob", "other"});
  EXPECT_EQ(other.status().code(), StatusCode::kAlreadyExists);
  const auto stop = controller_->cancel(first->id(), "", {"r1", "CancelJob", "hash"});
  EXPECT_EQ(stop.status().code(), StatusCode::kAlreadyExists);
}

TEST_F(ControllerTest, EtagsGuardChanges) {
  const std::string id = submit();
  const std::string etag = job(id).etag();
  ASSERT_TRUE(controller_->update(id, {.name = "new"}, etag, {}).ok());
  EXPECT_EQ(job(id).name(), "new");
  const auto late = controller_->update(id, {.name = "other"}, etag, {});
  EXPECT_EQ(late.status().code(), StatusCode::kAborted);
  EXPECT_EQ(controller_->remove(id, "", false, {}).code(), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
  EXPECT_EQ(controller_->remove(id, etag, false, {}).code(), StatusCode::kAborted);
  std::filesystem::create_directories(job(id).output_dir());
  const std::string out = job(id).output_dir();
  EXPECT_TRUE(controller_->remove(id, "", true, {}).ok());
  EXPECT_FALSE(std::filesystem::exists(out));
  EXPECT_EQ(controller_->get(id).status().code(), StatusCode::kNotFound);
}

TEST_F(ControllerTest, OthersCallWhileADeletionTakesItsTime) {
  std::future<int> free;
  config_.remove_folder = [&](const std::filesystem::path& folder) {
    free = std::async(std::launch::async, [&] { return controller_->slots().free; });
    EXPECT_EQ(free.wait_for(seconds(60)), std::future_status::ready);  // if it held the lock: never
    return remove_tree(folder);
  };
  restart();
  const std::string id = submit();
  ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
  const std::filesystem::path out = job(id).output_dir();
  std::filesystem::create_directories(out / "export");
  EXPECT_TRUE(controller_->remove(id, "", true, {}).ok());
  EXPECT_EQ(free.get(), 2);
  EXPECT_TRUE(std::filesystem::is_empty(out.parent_path()));
}

TEST_F(ControllerTest, ListsTheMetricsAddressesOfConnectedRanks) {
  const std::string id = submit(2);
  step();
  auto first = join(id, 0, 2);
  join(id, 1, 2);
  ASSERT_EQ(controller_->targets().size(), 2U);
  EXPECT_EQ(controller_->targets()[1].address, "127.0.0.1:9001");
  controller_->post({first, SessionClosed{}});
  step();
  EXPECT_EQ(controller_->targets().size(), 1U);
}

}  // namespace
}  // namespace emoe::server
