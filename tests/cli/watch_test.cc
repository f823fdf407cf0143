#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/fake_service.h"

namespace emoe::cli {
namespace {

TEST(Watch, OneLineAnEventFromWhereAsked) {
  FakeService service;
  service.watch = [](grpc::ServerContext*, const v1::WatchJobRequest&,
                     grpc::ServerWriter<v1::Event>& writer) {
    v1::Event heartbeat;
    heartbeat.mutable_heartbeat();
    writer.Write(heartbeat);
    writer.Write(step_event(7, 3));
    writer.Write(state_event(8, v1::FAILED, v1::REASON_IO));
    return grpc::Status::OK;
  };
  service.get = [](const v1::GetJobRequest&, v1::Job& job) {
    job.set_state(v1::FAILED);
    job.set_reason(v1::REASON_IO);
    return grpc::Status::OK;
  };
  const Outcome text = emoectl(service, {"watch", "job-1", "--from", "7"});
  EXPECT_EQ(text.code, 74);
  EXPECT_EQ(std::count(text.out.begin(), text.out.end(), '\n'), 2) << text.out;
  EXPECT_NE(text.out.find("step 4  loss 2.0000"), std::string::npos);
  EXPECT_NE(text.out.find("FAILED IO"), std::string::npos);
  EXPECT_EQ(service.watched_from(), std::vector<int64_t>{7});

  const Outcome lines = emoectl(service, {"-o", "json", "watch", "job-1", "--from", "7"});
  std::istringstream stream(lines.out);
  std::vector<int64_t> sequences;
  for (std::string line; std::getline(stream, line);) {
    sequences.push_back(nlohmann::json::parse(line)["sequence"].get<int64_t>());
  }
  EXPECT_EQ(sequences, (std::vector<int64_t>{7, 8}));
}

TEST(Watch, ErrorsThatStayAreNotRepeated) {
  FakeService service;
  service.watch = [](grpc::ServerContext*, const v1::WatchJobRequest&,
                     grpc::ServerWriter<v1::Event>&) {
    return rich_error(grpc::StatusCode::NOT_FOUND, "no job x", "JOB_NOT_FOUND");
  };
  const Outcome outcome = emoectl(service, {"watch", "x"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "error: NOT_FOUND (JOB_NOT_FOUND): no job x\n");
  EXPECT_EQ(service.watched_from().size(), 1u);
}

TEST(Watch, AStreamThatEndsForAnEndedJobIsTheEnd) {
  FakeService service;
  service.watch = [](grpc::ServerContext*, const v1::WatchJobRequest&,
                     grpc::ServerWriter<v1::Event>&) { return grpc::Status::OK; };
  service.get = [](const v1::GetJobRequest&, v1::Job& job) {
    job.set_state(v1::SUCCEEDED);
    return grpc::Status::OK;
  };
  EXPECT_EQ(emoectl(service, {"watch", "job-1", "--from", "99"}).code, 0);
}

}  // namespace
}  // namespace emoe::cli
