#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/fake_service.h"
#include "tests/cli/rich_error.h"

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

// The line a person waits for must not lose its end to a narrow terminal.
TEST(Watch, LinesAreWholeOnATerminal) {
  FakeService service;
  const std::string path = "/a/path/that/is/longer/than/the/terminal/is/wide";
  service.watch = [&](grpc::ServerContext*, const v1::WatchJobRequest&,
                      grpc::ServerWriter<v1::Event>& writer) {
    v1::Event failed = state_event(1, v1::FAILED, v1::REASON_IO);
    failed.mutable_state_change()->set_message("cannot write " + path + "\x1b[2J");
    writer.Write(failed);
    return grpc::Status::OK;
  };
  service.get = [](const v1::GetJobRequest&, v1::Job& job) {
    job.set_state(v1::FAILED);
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service, {"watch", "job-1"}, 40, 40);
  EXPECT_NE(outcome.out.find("FAILED IO: cannot write " + path + " [2J\n"), std::string::npos)
      << outcome.out;
}

TEST(Watch, ALostConnectionIsToldOnceAndItsReturnToo) {
  FakeService service;
  int streams = 0;
  service.watch = [&](grpc::ServerContext*, const v1::WatchJobRequest&,
                      grpc::ServerWriter<v1::Event>& writer) {
    ++streams;
    if (streams == 1) writer.Write(state_event(1, v1::RUNNING));
    if (streams < 5) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
    writer.Write(state_event(2, v1::SUCCEEDED));
    return grpc::Status::OK;
  };
  service.get = [](const v1::GetJobRequest&, v1::Job& job) {
    job.set_state(v1::SUCCEEDED);
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service, {"watch", "job-1"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err,
            "connection lost (restarting), trying again; the job is not affected\n"
            "connected again\n");
}

TEST(Logs, CannotMoveATerminalsCursor) {
  FakeService service;
  service.logs = [](const v1::GetJobLogsRequest&, v1::GetJobLogsResponse& answer) {
    answer.set_text("[0] one\n[1] \x1b[2Jtwo");
    return grpc::Status::OK;
  };
  EXPECT_EQ(emoectl(service, {"logs", "job-1"}, 80, 80).out, "[0] one\n[1]  [2Jtwo\n");
  EXPECT_EQ(emoectl(service, {"logs", "job-1"}).out, "[0] one\n[1] \x1b[2Jtwo\n");
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
  const auto json = nlohmann::json::parse(emoectl(service, {"-o", "json", "watch", "x"}).err);
  EXPECT_EQ(json["code"], 5);
  EXPECT_EQ(service.watched_from().size(), 2u);  // one for each call
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
