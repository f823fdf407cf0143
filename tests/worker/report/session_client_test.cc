#include "worker/report/session_client.h"

#include <fstream>
#include <future>
#include <numeric>
#include <thread>

#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <google/protobuf/util/delimited_message_util.h>
#include <gtest/gtest.h>

#include "tests/support/held_port.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/report/fake_coordinator.h"
#include "tests/worker/report/fake_timer.h"

namespace emoe::worker {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// For what comes at once unless the machine is busy with other things.
constexpr auto kPatience = 30s;

SystemTimer timer;

SessionClient::Config config_for(const std::string& address, int rank = 0) {
  SessionClient::Config config;
  config.address = address;
  config.job_id = "job-1";
  config.attempt = 2;
  config.token = "secret";
  config.rank = rank;
  config.world_size = 2;
  config.heartbeat_interval = 20ms;
  config.backoff_min = 10ms;
  config.backoff_max = 50ms;
  return config;
}

StepRecord step(int64_t number) {
  StepRecord record;
  record.step = number;
  record.loss = 1.0 / static_cast<double>(number + 1);
  return record;
}

bool eventually(const std::function<bool()>& condition) {
  for (const auto deadline = steady_clock::now() + kPatience; steady_clock::now() < deadline;
       std::this_thread::sleep_for(2ms)) {
    if (condition()) return true;
  }
  return false;
}

// The steps stored, in order of their sequence; the sequence has no gap and nothing twice.
std::vector<int64_t> steps_stored(const FakeCoordinator& coordinator) {
  std::vector<int64_t> steps;
  int64_t expected = 0;
  for (const v1::Report& report : coordinator.stored()) {
    EXPECT_EQ(report.sequence(), ++expected);
    if (report.has_step()) steps.push_back(report.step().metrics().step());
  }
  EXPECT_FALSE(coordinator.saw_gap());
  return steps;
}

std::vector<int64_t> first_steps(int64_t count) {
  std::vector<int64_t> steps(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) steps[static_cast<size_t>(i)] = i;
  return steps;
}

TEST(SessionClient, EverythingArrivesAndTheEndIsClean) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  client->on(PlanRecord{3, 0});
  client->on(Phase::data);
  client->on(Phase::forward);
  for (int64_t i = 0; i < 3; ++i) client->on(step(i));
  client->on(EvalRecord{.step = 3, .loss = 0.5});
  client->on(
      CheckpointRecord{3, "/out/checkpoints/step_00000003", 1234, 0.5, WallTime(1'700'000'000s)});
  client->on(MergeRecord{.verified = true, .tensors_changed = 2, .model_dir = "/out/export/model"});
  client->on(Message{"bad byte \xff here"});
  client->on(Warnings{{"ROWS_CUT", "2 of 9 rows cut", "data.train", 2, "\xff.json:4"}});
  ASSERT_TRUE(client->finish(0, "done", kPatience));
  EXPECT_TRUE(coordinator.wait([](const auto& c) { return c.clean_ends() == 1; }));
  EXPECT_EQ(client->poll(), StopRequest::none);
  EXPECT_FALSE(client->peer_lost());

  EXPECT_EQ(steps_stored(coordinator), first_steps(3));
  const auto join = coordinator.joins().at(0);
  EXPECT_EQ(join.job_id(), "job-1");
  EXPECT_EQ(join.attempt(), 2);
  EXPECT_EQ(join.token(), "secret");
  EXPECT_EQ(join.rank().world_size(), 2);
  const auto reports = coordinator.stored();
  EXPECT_EQ(reports[0].phase().phase(), "prepare");
  EXPECT_EQ(reports[0].phase().steps_planned(), 3);
  EXPECT_EQ(reports[1].phase().phase(), "train");
  EXPECT_EQ(reports[2].step().metrics().loss(), 1.0);
  EXPECT_EQ(reports[5].eval().loss(), 0.5);
  EXPECT_EQ(reports[6].checkpoint().bytes(), 1234);
  EXPECT_EQ(reports[6].checkpoint().create_time().seconds(), 1'700'000'000);
  EXPECT_EQ(reports[7].merge().model_dir(), "/out/export/model");
  EXPECT_EQ(reports[8].log().text(), "bad byte \xef\xbf\xbd here");
  EXPECT_EQ(reports[9].warning().code(), "ROWS_CUT");
  EXPECT_EQ(reports[9].warning().where(), "data.train");
  EXPECT_EQ(reports[9].warning().count(), 2);
  EXPECT_EQ(reports[9].warning().first(), "\xef\xbf\xbd.json:4");
  EXPECT_EQ(reports[10].end().message(), "done");
}

TEST(SessionClient, OtherRanksReportNoSteps) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config_for(coordinator.address(), 1), timer);
  client->on(PlanRecord{1, 0});
  client->on(step(0));
  client->on(EvalRecord{});
  client->on(CheckpointRecord{});
  client->on(MergeRecord{});
  ASSERT_TRUE(client->finish(0, "", kPatience));
  const auto reports = coordinator.stored();
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_TRUE(reports[0].has_end());
}

TEST(SessionClient, AReportWhoseAckWasLostIsNotStoredTwice) {
  FakeCoordinator coordinator;
  coordinator.break_after(3);
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  for (int64_t i = 0; i < 6; ++i) client->on(step(i));
  ASSERT_TRUE(client->finish(0, "", kPatience));
  EXPECT_EQ(coordinator.joins().size(), 2u);
  EXPECT_EQ(steps_stored(coordinator), first_steps(6));
}

TEST(SessionClient, ACoordinatorThatRestartsMissesNothing) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  for (int64_t i = 0; i < 5; ++i) client->on(step(i));
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return c.stored().size() >= 2; }));
  coordinator.stop();
  for (int64_t i = 5; i < 10; ++i) client->on(step(i));
  EXPECT_EQ(client->poll(), StopRequest::none);
  coordinator.start();
  ASSERT_TRUE(client->finish(0, "", kPatience));
  EXPECT_EQ(steps_stored(coordinator), first_steps(10));
}

TEST(SessionClient, ComesBackAfterManyBreaks) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  std::atomic<bool> done = false;
  const std::jthread saboteur([&] {
    for (int64_t at = 2; !done; at += 3) {
      coordinator.break_after(at);
      (void)eventually(
          [&] { return done || static_cast<int64_t>(coordinator.stored().size()) >= at; });
    }
  });
  for (int64_t i = 0; i < 40; ++i) client->on(step(i));
  const bool finished = client->finish(0, "", kPatience);
  done = true;
  EXPECT_TRUE(finished);
  EXPECT_EQ(steps_stored(coordinator), first_steps(40));
}

TEST(SessionClient, ARefusedRankMustEnd) {
  FakeCoordinator coordinator;
  coordinator.refuse_with({grpc::StatusCode::FAILED_PRECONDITION, "attempt 3 runs"});
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  ASSERT_TRUE(eventually([&] { return client->peer_lost(); }));
  EXPECT_EQ(client->poll(), StopRequest::stop);
  EXPECT_EQ(client->poll(), StopRequest::stop);
  client->on(step(0));
  EXPECT_FALSE(client->finish(71, "", kPatience));  // does not wait for what cannot come
  EXPECT_EQ(coordinator.joins().size(), 1u);        // and does not ask again
}

TEST(SessionClient, AStrangeCoordinatorIsNamedAsOne) {
  FakeCoordinator coordinator;
  coordinator.refuse_with({grpc::StatusCode::NOT_FOUND, "no job job-1"});
  ::testing::internal::CaptureStdout();  // where the log goes before a program says otherwise
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  EXPECT_TRUE(eventually([&] { return client->peer_lost(); }));
  const std::string log = ::testing::internal::GetCapturedStdout();
  EXPECT_NE(log.find("the coordinator at " + coordinator.address() +
                     " refuses this rank: no job job-1; it "
                     "is another coordinator than the one that started this rank"),
            std::string::npos)
      << log;
}

TEST(SessionClient, ADrainingCoordinatorIsAskedAgain) {
  FakeCoordinator coordinator;
  coordinator.refuse_with({grpc::StatusCode::UNAVAILABLE, "draining"});
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return c.joins().size() >= 2; }));
  EXPECT_FALSE(client->peer_lost());
  coordinator.refuse_with(grpc::Status::OK);
  EXPECT_TRUE(client->finish(0, "", kPatience));
}

TEST(SessionClient, CommandsBecomeStopRequests) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return !c.heartbeats().empty(); }));
  coordinator.send(v1::Command::CHECKPOINT_AND_STOP);
  ASSERT_TRUE(eventually([&] { return client->poll() == StopRequest::checkpoint_and_stop; }));
  EXPECT_EQ(client->poll(), StopRequest::checkpoint_and_stop);
  coordinator.send(v1::Command::STOP);
  ASSERT_TRUE(eventually([&] { return client->poll() == StopRequest::stop; }));
  EXPECT_FALSE(client->peer_lost());
}

// Time stands still but for advance(): the real grace of five minutes, without waiting for it.
class SessionGraceTest : public ::testing::Test {
 protected:
  SessionClient::Config config(const std::string& address) {
    auto config = config_for(address);
    config.heartbeat_interval = 1s;
    config.backoff_min = 1s;
    config.backoff_max = 5s;
    config.reconnect_grace = kGrace;
    return config;
  }
  // Passes time until `condition` holds; how long that took.
  SteadyTime::duration pass_time_until(const std::function<bool()>& condition) {
    const SteadyTime begin = timer_.now();
    EXPECT_TRUE(eventually([&] {
      if (condition()) return true;
      timer_.advance(1s);
      return false;
    }));
    return timer_.now() - begin;
  }
  static constexpr auto kGrace = 300s;
  FakeTimer timer_;
};

TEST_F(SessionGraceTest, WithoutACoordinatorForLongItCheckpointsAndEnds) {
  const emoe::testing::HeldPort nobody;
  const auto client = make_session_client(config(nobody.address()), timer_);
  timer_.advance(kGrace - 1ms);
  EXPECT_EQ(client->poll(), StopRequest::none);
  EXPECT_FALSE(client->peer_lost());
  timer_.advance(1ms);
  EXPECT_EQ(client->poll(), StopRequest::checkpoint_and_stop);
  EXPECT_TRUE(client->peer_lost());
  EXPECT_FALSE(client->finish(71, "", 2 * kGrace)) << "it has been waited for already";
}

TEST_F(SessionGraceTest, TheEndWaitsForACoordinatorAsLongAsItsGrace) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config(coordinator.address()), timer_);
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return !c.heartbeats().empty(); }));
  coordinator.stop();
  auto finished =
      std::async(std::launch::async, [&] { return client->finish(0, "", 10 * kGrace); });
  const auto waited =
      pass_time_until([&] { return finished.wait_for(1ms) == std::future_status::ready; });
  EXPECT_FALSE(finished.get());
  EXPECT_GE(waited, kGrace);
  EXPECT_LT(waited, 10 * kGrace);
}

TEST_F(SessionGraceTest, ACoordinatorThatCameBackTooLateStillHearsTheEnd) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config(coordinator.address()), timer_);
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return !c.heartbeats().empty(); }));
  coordinator.stop();
  EXPECT_GE(pass_time_until([&] { return client->peer_lost(); }), kGrace);
  const size_t heard = coordinator.heartbeats().size();
  coordinator.start();
  pass_time_until([&] { return coordinator.heartbeats().size() > heard; });
  EXPECT_TRUE(client->finish(71, "", kPatience));
  EXPECT_TRUE(client->peer_lost());
}

TEST_F(SessionGraceTest, TheGraceBeginsWhenTheCoordinatorGoes) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config(coordinator.address()), timer_);
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return !c.heartbeats().empty(); }));
  timer_.advance(10 * kGrace);  // silence on a living stream is no loss
  EXPECT_EQ(client->poll(), StopRequest::none);
  coordinator.stop();
  EXPECT_GE(pass_time_until([&] { return client->poll() == StopRequest::checkpoint_and_stop; }),
            kGrace);
}

TEST_F(SessionGraceTest, AHeartbeatComesEveryInterval) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config(coordinator.address()), timer_);
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return c.heartbeats().size() == 1; }));
  for (size_t beat = 2; beat < 5; ++beat) {
    timer_.advance(999ms);
    timer_.advance(1ms);
    ASSERT_TRUE(coordinator.wait([&](const auto& c) { return c.heartbeats().size() == beat; }));
  }
  timer_.advance(500ms);
  client->on(step(0));
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return !c.stored().empty(); }));
  EXPECT_EQ(coordinator.heartbeats().size(), 4u) << "it would have come before the report";
  client->on(Phase::eval);  // after 3.5 s in one phase: the coordinator must not take it for a hang
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return c.heartbeats().size() == 5; }));
  EXPECT_EQ(coordinator.heartbeats().back().phase(), "eval");
}

// The coordinator stores each report: at most one a second, and one for each whole percent.
TEST_F(SessionGraceTest, AnEvaluationReportsItsWholePercents) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config(coordinator.address()), timer_);
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return !c.heartbeats().empty(); }));
  client->on(Phase::eval);
  for (int64_t done = 1; done <= 300; ++done) {
    client->on(EvalProgress{done, 1000});
    timer_.advance(250ms);
  }
  client->on(EvalRecord{});
  ASSERT_TRUE(client->finish(0, "", kPatience));
  std::vector<int> percents;
  for (const v1::Report& report : coordinator.stored()) {
    if (report.has_phase()) percents.push_back(report.phase().percent());
  }
  std::vector<int> expected(31);  // 0 as it begins, 1 to 30
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(percents, expected);
}

// The messages of a file as the coordinator reads them.
std::vector<v1::Report> delimited(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  google::protobuf::io::IstreamInputStream stream(&file);
  std::vector<v1::Report> reports;
  bool clean_end = false;
  v1::Report report;
  while (google::protobuf::util::ParseDelimitedFromZeroCopyStream(&report, &stream, &clean_end)) {
    reports.push_back(report);
  }
  EXPECT_TRUE(clean_end);
  return reports;
}

TEST_F(SessionGraceTest, LeavesInAFileWhatNoCoordinatorCameBackFor) {
  const emoe::testing::TempDir dir;
  FakeCoordinator coordinator;
  auto own = config(coordinator.address());
  own.unacked_file = dir / "rank_0.reports";
  const auto client = make_session_client(own, timer_);
  for (int64_t i = 0; i < 3; ++i) client->on(step(i));
  ASSERT_TRUE(coordinator.wait([](const auto& c) { return c.stored().size() == 3; }));
  coordinator.stop();
  for (int64_t i = 3; i < 5; ++i) client->on(step(i));
  pass_time_until([&] { return client->peer_lost(); });
  EXPECT_FALSE(client->finish(0, "done", kPatience)) << "it has been waited for already";
  const auto left = delimited(own.unacked_file);
  ASSERT_GE(left.size(), 3u);  // and perhaps some whose acks did not arrive
  for (size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i].sequence(),
              6 - static_cast<int64_t>(left.size()) + 1 + static_cast<int64_t>(i));
  }
  EXPECT_EQ(left[left.size() - 2].step().metrics().step(), 4);
  EXPECT_EQ(left.back().end().message(), "done");
}

TEST(SessionClient, WhatACheckpointCoversIsOnTheDiskBeforeIt) {
  const emoe::testing::TempDir dir;
  FakeCoordinator coordinator;
  auto config = config_for(coordinator.address());
  config.unacked_file = dir / "rank_0.reports";
  const auto client = make_session_client(config, timer);
  coordinator.stop();
  client->on(step(0));
  client->on(Phase::checkpoint);
  EXPECT_FALSE(std::filesystem::exists(config.unacked_file)) << "a run that resumes enters it too";
  client->before_checkpoint();
  for (int64_t i = 1; i < 4; ++i) {
    const auto left = delimited(config.unacked_file);
    EXPECT_EQ(std::ranges::count_if(left, &v1::Report::has_step), i);
    client->on(step(i));
    client->before_checkpoint();
  }
}

TEST(SessionClient, ARankThatResumesSaysFromWhere) {
  FakeCoordinator coordinator;
  const auto client = make_session_client(config_for(coordinator.address()), timer);
  client->on(ResumeRecord{{.step = 20,
                           .path = "/out/checkpoints/step_00000020",
                           .bytes = 7,
                           .written = WallTime(1'700'000'000s)}});
  ASSERT_TRUE(client->finish(0, "", 10s));
  const auto stored = coordinator.stored();
  const auto told = std::ranges::find_if(stored, &v1::Report::has_resumed);
  ASSERT_NE(told, stored.end());
  EXPECT_EQ(told->resumed().step(), 20);
  EXPECT_EQ(told->resumed().path(), "/out/checkpoints/step_00000020");
  EXPECT_EQ(told->resumed().bytes(), 7);
  EXPECT_EQ(told->resumed().create_time().seconds(), 1'700'000'000);
}

TEST(SessionClient, LeavesNoFileWhereAllArrivedOrNoneIsWanted) {
  const emoe::testing::TempDir dir;
  FakeCoordinator coordinator;
  auto config = config_for(coordinator.address());
  config.unacked_file = dir / "rank_0.reports";
  {
    const auto client = make_session_client(config, timer);
    EXPECT_TRUE(client->finish(0, "", kPatience));
  }
  coordinator.refuse_with({grpc::StatusCode::FAILED_PRECONDITION, "attempt 3 runs"});
  const auto stale = make_session_client(config, timer);
  EXPECT_FALSE(stale->finish(0, "", kPatience));
  EXPECT_FALSE(std::filesystem::exists(config.unacked_file));
}

TEST(SessionClient, HeartbeatsTellWhereTheRankIs) {
  FakeCoordinator coordinator;
  auto config = config_for(coordinator.address(), 1);
  CollectiveCounters counters;
  counters.started = 7;
  counters.completed = 6;
  counters.operation = "all_reduce";
  config.counters = &counters;
  const auto client = make_session_client(config, timer);
  client->on_work_done();
  client->on_work_done();
  client->on(step(4));
  client->on(Phase::comm);
  ASSERT_TRUE(coordinator.wait([](const auto& c) {
    const auto beats = c.heartbeats();
    return !beats.empty() && beats.back().phase() == "comm";
  }));
  const auto beat = coordinator.heartbeats().back();
  EXPECT_EQ(beat.step(), 5);
  EXPECT_EQ(beat.comm_sequence(), 7);
  EXPECT_EQ(beat.comm_completed(), 6);
  EXPECT_EQ(beat.comm_op(), "all_reduce");
  EXPECT_EQ(beat.work_done(), 2);
}

TEST(SessionClient, CanBeDestroyedAtAnyMoment) {
  FakeCoordinator coordinator;
  { const auto connecting = make_session_client(config_for(coordinator.address()), timer); }
  {
    const auto connected = make_session_client(config_for(coordinator.address()), timer);
    ASSERT_TRUE(coordinator.wait([](const auto& c) { return !c.heartbeats().empty(); }));
    connected->on(step(0));
  }
  coordinator.stop();
  const auto alone = make_session_client(config_for(coordinator.address()), timer);
}

}  // namespace
}  // namespace emoe::worker
