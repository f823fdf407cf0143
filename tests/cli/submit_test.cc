#include <csignal>
#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/cli/fake_service.h"
#include "tests/cli/rich_error.h"
#include "tests/support/temp_dir.h"

namespace emoe::cli {
namespace {

constexpr char kJob[] = "name: first\nmodel: {path: models/m}\ndata:\n  train: /data/d.json\n";

class Submit : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = dir_ / "job.yaml";
    ASSERT_TRUE(write_file_atomically(file_, kJob).ok());
    service_.create = [](const v1::CreateJobRequest& request, v1::Job& job) {
      job.set_id(request.validate_only() ? "" : "job-1");
      job.set_name(request.spec().name());
      job.set_state(v1::QUEUED);
      return grpc::Status::OK;
    };
    service_.get = [this](const v1::GetJobRequest& request, v1::Job& job) {
      job.set_id(request.id());
      job.set_state(final_state_);
      job.set_reason(final_reason_);
      return grpc::Status::OK;
    };
  }

  testing::TempDir dir_;
  std::filesystem::path file_;
  v1::JobState final_state_ = v1::SUCCEEDED;
  v1::Reason final_reason_ = v1::REASON_COMPLETED;
  FakeService service_;  // last: its threads use the others
};

TEST_F(Submit, SendsTheSpecWithAbsolutePathsAndOverrides) {
  const Outcome outcome = emoectl(service_, {"submit", file_, "--set", "train.epochs=2", "--set",
                                             "lora.targets=[q_proj,k_proj]", "-o", "json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["id"], "job-1");
  const auto requests = service_.create_requests();
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].spec().model().path(), std::filesystem::current_path() / "models/m");
  EXPECT_EQ(requests[0].spec().data().train(), "/data/d.json");
  EXPECT_EQ(requests[0].spec().train().epochs(), 2);
  EXPECT_EQ(requests[0].spec().lora().targets_size(), 2);
  EXPECT_FALSE(requests[0].spec().has_optimizer());  // defaults are the server's to fill in
  EXPECT_FALSE(requests[0].request_id().empty());
}

TEST_F(Submit, StrictIsAShortFormOfAKeyAndWarningsAreShown) {
  service_.create = [](const v1::CreateJobRequest& request, v1::Job& job) {
    job.set_id(request.validate_only() ? "" : "job-1");
    v1::Warning& warning = *job.add_warnings();
    warning.set_code("UNREAD_KEY");
    warning.set_text("3 of 9 rows with a key");
    warning.set_where("data.train");
    return grpc::Status::OK;
  };
  Outcome outcome = emoectl(service_, {"submit", file_, "--strict", "--set", "data.strict=false"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(service_.create_requests()[0].spec().data().strict());
  EXPECT_NE(outcome.out.find("UNREAD_KEY  3 of 9 rows with a key; see data.train\n"),
            std::string::npos)
      << outcome.out;
  outcome = emoectl(service_, {"submit", file_, "--validate-only"});
  EXPECT_FALSE(service_.create_requests()[1].spec().data().has_strict());
  EXPECT_EQ(outcome.out,
            "valid; nothing was submitted\nWARNING     TEXT\n"
            "UNREAD_KEY  3 of 9 rows with a key; see data.train\n");
}

TEST_F(Submit, SetBeforeTheFileLeavesTheFileAlone) {
  const Outcome outcome = emoectl(service_, {"submit", "--set", "name=x", file_});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(service_.create_requests()[0].spec().name(), "x");
  EXPECT_EQ(outcome.out.rfind("submitted job-1\n", 0), 0u) << outcome.out;
}

TEST_F(Submit, WhatDoesNotReadIsJudgedLocallyAndWhole) {
  ASSERT_TRUE(
      write_file_atomically(file_,
                            "nam: x\ntrain: {epochs: many, log_every: 0}\nmodel: {path: m}\n"
                            "parallel: {tensor: 3, ranks: 2}\n")
          .ok());
  const Outcome outcome = emoectl(service_, {"submit", file_});
  EXPECT_EQ(outcome.code, 64);
  const std::string at = file_.string();
  EXPECT_EQ(outcome.err,
            "error: 5 problems\n  " + at + ":1: nam: unknown key (did you mean \"name\"?)\n  " +
                at + ":2: train.epochs: expected a whole number, got the text \"many\"\n  " + at +
                ":2: train.log_every: must be at least 1 and at most 2147483647, is 0\n  " + at +
                ": data.train: is required for task: train\n  " + at +
                ":4: parallel.tensor: must divide parallel.ranks 2, is 3\n");
  EXPECT_TRUE(service_.create_requests().empty());
  EXPECT_EQ(emoectl(service_, {"submit", dir_ / "none.yaml"}).code, 64);
}

TEST_F(Submit, ViolationsOfTheServerGetTheirLine) {
  service_.create = [](const v1::CreateJobRequest&, v1::Job&) {
    return rich_error(grpc::StatusCode::INVALID_ARGUMENT, "the job is not valid", "INVALID_SPEC",
                      {{"data.train", "no such file"}, {"optimizer.beta1", "must be below 1"}});
  };
  const Outcome outcome = emoectl(service_, {"submit", file_});
  EXPECT_EQ(outcome.code, 64);
  EXPECT_NE(outcome.err.find("error: INVALID_ARGUMENT (INVALID_SPEC): the job is not valid\n"),
            std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("job.yaml:4: data.train: no such file\n"), std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("job.yaml: optimizer.beta1: must be below 1\n"), std::string::npos);
  EXPECT_EQ(outcome.out, "");
}

TEST_F(Submit, RetriesWithTheSameRequestId) {
  int calls = 0;
  service_.create = [&](const v1::CreateJobRequest&, v1::Job& job) {
    if (++calls < 3) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
    job.set_id("job-1");
    return grpc::Status::OK;
  };
  ASSERT_EQ(emoectl(service_, {"submit", file_}).code, 0);
  const auto requests = service_.create_requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[0].request_id(), requests[2].request_id());
  ASSERT_EQ(emoectl(service_, {"submit", file_, "--request-id", "mine"}).code, 0);
  EXPECT_EQ(service_.create_requests().back().request_id(), "mine");
}

TEST_F(Submit, ValidateOnlyStoresNothing) {
  const Outcome outcome = emoectl(service_, {"submit", file_, "--validate-only", "--wait"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "valid; nothing was submitted\n");
  EXPECT_TRUE(service_.create_requests()[0].validate_only());
}

// The stream breaks after three events, lags once, then goes on to the end; nothing is lost or
// shown twice.
TEST_F(Submit, WaitResumesAfterABrokenStream) {
  int streams = 0;
  service_.watch = [&](grpc::ServerContext*, const v1::WatchJobRequest& request,
                       grpc::ServerWriter<v1::Event>& writer) {
    ++streams;
    if (streams == 1) {
      writer.Write(state_event(1, v1::RUNNING));
      writer.Write(phase_event(2, 4));
      writer.Write(step_event(3, 0));
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection reset");
    }
    if (streams == 2) {
      v1::Event lagged;
      lagged.mutable_lagged()->set_missed(2);
      lagged.mutable_lagged()->set_resume_from_sequence(request.from_sequence());
      writer.Write(lagged);
      return grpc::Status::OK;
    }
    writer.Write(step_event(3, 0));  // older than asked for
    writer.Write(step_event(4, 1));
    writer.Write(state_event(5, v1::SUCCEEDED, v1::REASON_COMPLETED));
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service_, {"submit", file_, "--wait", "-o", "json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(service_.watched_from(), (std::vector<int64_t>{1, 4, 4}));
  EXPECT_NE(outcome.err.find("submitted job-1\n"), std::string::npos);
  EXPECT_NE(outcome.err.find("connection lost (connection reset), trying again"),
            std::string::npos);
  EXPECT_NE(outcome.err.find("SUCCEEDED COMPLETED"), std::string::npos);
  EXPECT_EQ(outcome.err.find('\r'), std::string::npos);  // no bar without a terminal
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["state"], "SUCCEEDED");
}

TEST_F(Submit, WaitDrawsABarOnATerminal) {
  service_.watch = [](grpc::ServerContext*, const v1::WatchJobRequest&,
                      grpc::ServerWriter<v1::Event>& writer) {
    writer.Write(state_event(1, v1::RUNNING));
    writer.Write(phase_event(2, 2));
    writer.Write(step_event(3, 0));
    v1::Event checkpoint;
    checkpoint.set_sequence(4);
    checkpoint.mutable_checkpoint()->set_step(1);
    writer.Write(checkpoint);
    writer.Write(state_event(5, v1::SUCCEEDED));
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service_, {"submit", file_, "--wait"}, 100);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_NE(outcome.err.find("\rRUNNING train  [##########..........]  1/2  50%"),
            std::string::npos)
      << outcome.err;
  EXPECT_EQ(outcome.err.substr(outcome.err.size() - 4), "\r\x1b[K");  // nothing is left of it
}

TEST_F(Submit, ExitCodeIsThatOfTheOutcome) {
  service_.watch = [this](grpc::ServerContext*, const v1::WatchJobRequest&,
                          grpc::ServerWriter<v1::Event>& writer) {
    writer.Write(state_event(1, final_state_, final_reason_));
    return grpc::Status::OK;
  };
  final_state_ = v1::FAILED;
  for (const auto& [reason, code] :
       {std::pair{v1::REASON_DATA, 65}, std::pair{v1::REASON_INTERNAL, 70},
        std::pair{v1::REASON_PEER_LOST, 71}, std::pair{v1::REASON_NON_FINITE, 76}}) {
    final_reason_ = reason;
    EXPECT_EQ(emoectl(service_, {"submit", file_, "--wait"}).code, code);
  }
  final_state_ = v1::CANCELLED;
  EXPECT_EQ(emoectl(service_, {"submit", file_, "--wait"}).code, 1);
}

TEST_F(Submit, WhileItWaitsItSaysWhyOnce) {
  service_.watch = [](grpc::ServerContext*, const v1::WatchJobRequest&,
                      grpc::ServerWriter<v1::Event>& writer) {
    v1::Event heartbeat;
    heartbeat.mutable_heartbeat();
    writer.Write(state_event(1, v1::QUEUED));
    for (int i = 0; i < 3; ++i) writer.Write(heartbeat);
    writer.Write(state_event(2, v1::RUNNING));
    writer.Write(heartbeat);
    writer.Write(state_event(3, v1::SUCCEEDED));
    return grpc::Status::OK;
  };
  service_.get = [](const v1::GetJobRequest& request, v1::Job& job) {
    job.set_id(request.id());
    job.set_state(v1::SUCCEEDED);
    job.set_message("waits for 2 of 4 slots");
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service_, {"submit", file_, "--wait"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string reason = "job-1: waits for 2 of 4 slots\n";
  const size_t found = outcome.err.find(reason);
  ASSERT_NE(found, std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find(reason, found + 1), std::string::npos) << outcome.err;
}

TEST_F(Submit, CtrlCStopsTheWaitingNotTheJob) {
  service_.watch = [](grpc::ServerContext* context, const v1::WatchJobRequest&,
                      grpc::ServerWriter<v1::Event>& writer) {
    writer.Write(state_event(1, v1::RUNNING));
    std::raise(SIGINT);  // as the terminal would, once the job runs
    v1::Event heartbeat;
    heartbeat.mutable_heartbeat();
    while (!context->IsCancelled()) writer.Write(heartbeat);
    return grpc::Status::CANCELLED;
  };
  const Outcome outcome = emoectl(service_, {"submit", file_, "--wait"});
  EXPECT_EQ(outcome.code, 130);
  EXPECT_NE(
      outcome.err.find(
          "the job goes on: `emoectl watch job-1` follows it, `emoectl cancel job-1` ends it"),
      std::string::npos)
      << outcome.err;
  EXPECT_EQ(service_.watched_from().size(), 1u);
}

TEST_F(Submit, ResubmittingAnExportExportsAgain) {
  service_.get = [](const v1::GetJobRequest& request, v1::Job& job) {
    job.set_id(request.id());
    job.mutable_spec()->set_name("first-step-7");
    job.mutable_export_of()->set_job_id("job-1");
    job.mutable_export_of()->set_step(7);
    return grpc::Status::OK;
  };
  std::vector<v1::ExportCheckpointRequest> asked;
  service_.export_checkpoint = [&](const v1::ExportCheckpointRequest& request, v1::Job& job) {
    asked.push_back(request);
    job.set_id("job-3");
    return grpc::Status::OK;
  };
  const Outcome again = emoectl(service_, {"resubmit", "job-2"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.out.find("submitted job-3"), std::string::npos) << again.out;
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(asked[0].id(), "job-1");
  EXPECT_EQ(asked[0].step(), 7);
  EXPECT_FALSE(asked[0].request_id().empty());
  // With a change it would be another training.
  for (const std::vector<std::string>& change :
       {std::vector<std::string>{"--set", "train.max_steps=2"},
        {"--strict"},
        {"--validate-only"}}) {
    std::vector<std::string> words{"resubmit", "job-2"};
    words.insert(words.end(), change.begin(), change.end());
    const Outcome refused = emoectl(service_, words);
    EXPECT_EQ(refused.code, kExitUsage);
    EXPECT_NE(refused.err.find("resubmit job-1"), std::string::npos) << refused.err;
  }
  EXPECT_EQ(asked.size(), 1u);
  EXPECT_TRUE(service_.create_requests().empty());
}

}  // namespace
}  // namespace emoe::cli
