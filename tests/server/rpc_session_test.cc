// Ranks over a real socket: whole jobs, restarts of the coordinator, strangers.
#include "tests/server/rpc_support.h"

namespace emoe::server {
namespace {

class RpcSessionTest : public RpcTest {
 protected:
  launcher::LaunchRequest launched(const std::string& id, int attempt = 1) {
    const auto launch = launcher_.wait_for_launch(id, attempt, kPatience);
    EXPECT_TRUE(launch.has_value());
    return launch.value_or(launcher::LaunchRequest());
  }
  static void send_merge(RankClient& rank) {
    rank.send([](v1::Report& report) { report.mutable_phase()->set_phase("export"); });
    rank.send([](v1::Report& report) { report.mutable_merge()->set_verified(true); });
  }
};

TEST_F(RpcSessionTest, RunsAJobOfTwoRanksToItsEnd) {
  const std::string id = submit(2);
  const auto launch = launched(id);
  RankClient first(*ranks_, launch, 0, 2);
  RankClient second(*ranks_, launch, 1, 2);
  ASSERT_EQ(first.join(), 0);
  ASSERT_EQ(second.join(), 0);
  for (int step = 0; step < 20; ++step) {
    for (RankClient* rank : {&first, &second}) {
      rank->beat(step);
      rank->send_step(step);
    }
  }
  send_merge(first);
  first.send_end(0);
  second.send_end(0);
  ASSERT_TRUE(first.wait_for_acks());
  ASSERT_TRUE(second.wait_for_acks());
  launcher_.end(id, 1, {});
  EXPECT_EQ(wait_for_end(id), v1::SUCCEEDED);
  const v1::Job job = get(id);
  EXPECT_EQ(job.progress().step(), 20);
  EXPECT_EQ(job.attempts(0).ranks_size(), 2);
  EXPECT_TRUE(job.merge().verified());
  EXPECT_EQ(first.finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);

  grpc::ClientContext context;
  v1::ListMetricsRequest request;
  request.set_id(id);
  request.set_page_size(15);
  v1::ListMetricsResponse page;
  ASSERT_TRUE(jobs_->ListMetrics(&context, request, &page).ok());
  ASSERT_EQ(page.steps_size(), 15);
  request.set_page_token(page.next_page_token());
  grpc::ClientContext second_context;
  v1::ListMetricsResponse rest;
  ASSERT_TRUE(jobs_->ListMetrics(&second_context, request, &rest).ok());
  ASSERT_EQ(rest.steps_size(), 5);
  EXPECT_EQ(rest.steps(0).step(), 15);
  EXPECT_EQ(rest.next_page_token(), "");
}

TEST_F(RpcSessionTest, RanksReconnectToARestartedCoordinatorAndNothingRunsTwice) {
  const std::string id = submit();
  const auto launch = launched(id);
  {
    RankClient rank(*ranks_, launch, 0, 1);
    ASSERT_EQ(rank.join(), 0);
    for (int step = 0; step < 5; ++step) rank.send_step(step);
    ASSERT_TRUE(rank.wait_for_acks());
    stop();
    EXPECT_EQ(rank.finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  start();
  EXPECT_EQ(get(id).state(), v1::RUNNING);
  RankClient rank(*ranks_, launch, 0, 1);
  ASSERT_EQ(rank.join(), 5);
  rank.send_step(5);
  send_merge(rank);
  rank.send_end(0);
  ASSERT_TRUE(rank.wait_for_acks());
  launcher_.end(id, 1, {});
  EXPECT_EQ(wait_for_end(id), v1::SUCCEEDED);
  EXPECT_EQ(launcher_.launches().size(), 1U);
  EXPECT_EQ(get(id).progress().tokens(), 600);
}

TEST_F(RpcSessionTest, ABrokenStreamIsTakenUpAgain) {
  const std::string id = submit();
  const auto launch = launched(id);
  for (int round = 0; round < 5; ++round) {
    RankClient rank(*ranks_, launch, 0, 1);
    ASSERT_EQ(rank.join(), round);
    rank.send_step(round);
    ASSERT_TRUE(rank.wait_for_acks());
    rank.drop();
  }
  EXPECT_EQ(get(id).progress().step(), 5);
  EXPECT_EQ(get(id).state(), v1::RUNNING);
}

TEST_F(RpcSessionTest, RefusesWorldsThatDoNotMatchAndForgedTokens) {
  const std::string id = submit(2);
  auto launch = launched(id);
  auto forged = launch;
  forged.environment["EMOE_ATTEMPT_TOKEN"] = "guess";
  RankClient stranger(*ranks_, forged, 0, 2);
  EXPECT_EQ(stranger.join(), -1);
  EXPECT_EQ(stranger.finish().error_code(), grpc::StatusCode::PERMISSION_DENIED);
  RankClient single(*ranks_, launch, 0, 1);
  EXPECT_EQ(single.join(), -1);
  const grpc::Status status = single.finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(reason(status), "WORLD_SIZE_MISMATCH");
  EXPECT_EQ(wait_for_end(id), v1::FAILED);
  EXPECT_EQ(get(id).reason(), v1::REASON_START_FAILED);
}

TEST_F(RpcSessionTest, CancelReachesTheRankAndWaitsForItsEnd) {
  const std::string id = submit();
  RankClient rank(*ranks_, launched(id), 0, 1);
  ASSERT_EQ(rank.join(), 0);
  grpc::ClientContext context;
  v1::CancelJobRequest request;
  request.set_id(id);
  request.set_message("enough");
  v1::Job job;
  ASSERT_TRUE(jobs_->CancelJob(&context, request, &job).ok());
  EXPECT_EQ(job.state(), v1::CANCELLING);
  EXPECT_EQ(rank.wait_for_command(), v1::Command::STOP);
  // It does not listen: the kill after stop_grace ends it.
  EXPECT_EQ(wait_for_end(id), v1::CANCELLED);
  EXPECT_EQ(launcher_.stops().back().mode, launcher::StopMode::kill);
}

TEST_F(RpcSessionTest, AFloodOfReportsIsStoredWhole) {
  const std::string id = submit();
  RankClient rank(*ranks_, launched(id), 0, 1);
  ASSERT_EQ(rank.join(), 0);
  for (int step = 0; step < 500; ++step) rank.send_step(step);
  ASSERT_TRUE(rank.wait_for_acks());
  EXPECT_EQ(store_->steps(id, 0, 1000)->size(), 500U);
}

TEST_F(RpcSessionTest, ManyJobsAndRanksAtOnce) {
  constexpr int kJobs = 8;
  std::vector<std::jthread> clients;
  for (int i = 0; i < kJobs; ++i) {
    clients.emplace_back([this] {
      const std::string id = submit();
      RankClient rank(*ranks_, launched(id), 0, 1);
      ASSERT_EQ(rank.join(), 0);
      for (int step = 0; step < 10; ++step) rank.send_step(step);
      send_merge(rank);
      rank.send_end(0);
      ASSERT_TRUE(rank.wait_for_acks());
      launcher_.end(id, 1, {});
      EXPECT_EQ(wait_for_end(id), v1::SUCCEEDED);
    });
  }
  clients.clear();
  EXPECT_EQ(launcher_.launches().size(), static_cast<size_t>(kJobs));
  EXPECT_EQ(controller_->slots().free, 2);
}

}  // namespace
}  // namespace emoe::server
