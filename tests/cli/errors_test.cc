#include "cli/errors.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/cli/rich_error.h"

namespace emoe::cli {
namespace {

TEST(ErrorText, ViolationsHaveTheirPlaceInTheFile) {
  const config::KeyLocations locations{
      {"", "job.yaml"},       {"data", "job.yaml:2"},       {"train", "job.yaml:5"},
      {"emoe", "job.yaml:7"}, {"emoe.top_k", "job.yaml:9"}, {"labels.a", "job.yaml:11"}};
  const auto status = rich_error(grpc::StatusCode::INVALID_ARGUMENT,
                                 "emoe.top_k: too many\nemoe.layers: missing", "INVALID_SPEC",
                                 {{"emoe.top_k", "too many"},
                                  {"emoe.layers.list[2]", "no layer 9"},
                                  {"labels.a", "too long"},
                                  {"model.path", "is required"},
                                  {"d.jsonl:12", "not UTF-8"},
                                  {"train.jsonl:2", "is empty"},
                                  {"data.json:5", "is empty"}});
  EXPECT_EQ(error_text(status, "host:1", locations),
            "error: INVALID_ARGUMENT (INVALID_SPEC): 7 problems\n"
            "  job.yaml:9: emoe.top_k: too many\n"
            "  job.yaml:7: emoe.layers.list[2]: no layer 9\n"
            "  job.yaml:11: labels.a: too long\n"
            "  job.yaml: model.path: is required\n"
            "  d.jsonl:12: not UTF-8\n"
            "  train.jsonl:2: is empty\n"
            "  data.json:5: is empty\n");
  EXPECT_EQ(exit_code_of(status), kExitUsage);
}

TEST(ErrorText, OrdinaryErrors) {
  EXPECT_EQ(error_text(rich_error(grpc::StatusCode::NOT_FOUND, "no job x", "JOB_NOT_FOUND", {}),
                       "host:1"),
            "error: NOT_FOUND (JOB_NOT_FOUND): no job x\n");
  EXPECT_EQ(error_text(grpc::Status(grpc::StatusCode::ABORTED, "a\x1b[2Jb", "no proto"), "host:1"),
            "error: ABORTED: a [2Jb\n");
}

// What gRPC says where TLS is wrong, from a real coordinator, becomes what a user can do.
TEST(ErrorText, TroubleWithTlsIsNamed) {
  const auto text = [](const char* message) {
    return error_text(grpc::Status(grpc::StatusCode::UNAVAILABLE, message), "h:1");
  };
  EXPECT_NE(text("Socket closed").find("speak TLS (--tls-ca)"), std::string::npos);
  EXPECT_NE(text("empty address list: ").find("--tls-key the key of --tls-cert"),
            std::string::npos);
  EXPECT_NE(text("Ssl handshake failed: SSL_ERROR_SSL: certificate verify failed")
                .find("name in --server"),
            std::string::npos);
  EXPECT_NE(text("Ssl handshake failed: error:0A00010B:SSL routines::wrong version number")
                .find("leave --tls-ca (EMOE_TLS_CA) out"),
            std::string::npos);
  for (const char* of_tls : {"Socket closed", "empty address list: "}) {
    EXPECT_EQ(text(of_tls).find("no coordinator"), std::string::npos) << text(of_tls);
  }
  EXPECT_NE(text("connections to all backends failing: Connection refused").find("no coordinator"),
            std::string::npos);
}

TEST(ErrorText, AQuotaThatTheMessageNamesIsNotNamedAgain) {
  google::rpc::Status details;
  details.set_message("too many");
  google::rpc::QuotaFailure quota;
  quota.add_violations()->set_description("too many");
  details.add_details()->PackFrom(quota);
  EXPECT_EQ(error_text(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many",
                                    details.SerializeAsString()),
                       "h:1"),
            "error: RESOURCE_EXHAUSTED: too many\n");
}

TEST(ErrorText, RetryInfoAndQuota) {
  google::rpc::Status details;
  google::rpc::QuotaFailure quota;
  quota.add_violations()->set_subject("jobs");
  quota.mutable_violations(0)->set_description("5 of 5 unfinished");
  details.add_details()->PackFrom(quota);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(30);
  details.add_details()->PackFrom(retry);
  const grpc::Status status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full",
                            details.SerializeAsString());
  EXPECT_EQ(
      error_text(status, "h:1"),
      "error: RESOURCE_EXHAUSTED: queue is full\n  jobs: 5 of 5 unfinished\n  try again in 30s\n");
}

TEST(ErrorText, AnUnreachableServerIsNamed) {
  const grpc::Status status(grpc::StatusCode::UNAVAILABLE, "connection refused");
  EXPECT_NE(error_text(status, "h:7070").find("no coordinator at h:7070: connection refused"),
            std::string::npos);
  EXPECT_EQ(exit_code_of(status), kExitUnavailable);
  // A server that says it is draining is there.
  const auto draining = rich_error(grpc::StatusCode::UNAVAILABLE, "shutting down", "DRAINING", {});
  EXPECT_EQ(error_text(draining, "h:1"), "error: UNAVAILABLE (DRAINING): shutting down\n");
}

TEST(ExitCode, FollowsTheReasonOfAJob) {
  const std::pair<v1::Reason, int> cases[] = {
      {v1::REASON_CONFIGURATION, 64}, {v1::REASON_DATA, 65},
      {v1::REASON_INTERNAL, 70},      {v1::REASON_PEER_LOST, 71},
      {v1::REASON_HANG, 71},          {v1::REASON_COORDINATOR_LOST, 71},
      {v1::REASON_START_FAILED, 71},  {v1::REASON_IO, 74},
      {v1::REASON_PREEMPTED, 75},     {v1::REASON_NON_FINITE, 76},
      {v1::REASON_OUT_OF_MEMORY, 77}, {v1::REASON_MAX_RUNTIME, 1}};
  for (const auto& [reason, code] : cases) {
    v1::Job job;
    job.set_state(v1::FAILED);
    job.set_reason(reason);
    EXPECT_EQ(exit_code_of(job), code) << v1::Reason_Name(reason);
  }
  v1::Job job;
  job.set_state(v1::SUCCEEDED);
  EXPECT_EQ(exit_code_of(job), 0);
  job.set_state(v1::CANCELLED);
  EXPECT_EQ(exit_code_of(job), 1);
  job.set_state(v1::FAILED);
  job.set_reason(v1::REASON_ATTEMPTS_EXHAUSTED);
  job.add_attempts()->set_reason(v1::REASON_IO);
  job.add_attempts()->set_reason(v1::REASON_NON_FINITE);
  EXPECT_EQ(exit_code_of(job), 76);
}

}  // namespace
}  // namespace emoe::cli
