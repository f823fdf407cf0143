#include <cstdlib>
#include <latch>
#include <utility>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/cli/fake_service.h"
#include "tests/cli/rich_error.h"
#include "tests/support/temp_dir.h"

namespace emoe::cli {
namespace {

TEST(Commands, ListFollowsPages) {
  FakeService service;
  service.list = [](const v1::ListJobsRequest& request, v1::ListJobsResponse& response) {
    EXPECT_EQ(request.filter(), "state=RUNNING");
    const int first = request.page_token().empty() ? 0 : std::stoi(request.page_token());
    for (int i = first; i < first + 2; ++i) response.add_jobs()->set_id("job-" + std::to_string(i));
    if (first < 4) response.set_next_page_token(std::to_string(first + 2));
    return grpc::Status::OK;
  };
  const Outcome all = emoectl(service, {"list", "--filter", "state=RUNNING", "-o", "json"});
  ASSERT_EQ(all.code, 0) << all.err;
  EXPECT_EQ(nlohmann::json::parse(all.out)["jobs"].size(), 6u);
  const Outcome some = emoectl(service, {"list", "--filter", "state=RUNNING", "--limit", "3"});
  EXPECT_NE(some.out.find("and more"), std::string::npos) << some.out;
}

TEST(Commands, GetInEveryForm) {
  FakeService service;
  service.get = [](const v1::GetJobRequest& request, v1::Job& job) {
    job.set_id(request.id());
    job.set_state(v1::RUNNING);
    job.mutable_progress()->set_step(3);
    return grpc::Status::OK;
  };
  EXPECT_NE(emoectl(service, {"get", "job-1"}).out.find("state:     RUNNING"), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(
                emoectl(service, {"get", "job-1", "-o", "json"}).out)["progress"]["step"],
            3);
  EXPECT_NE(emoectl(service, {"-o", "yaml", "get", "job-1"}).out.find("progress:\n  step: 3\n"),
            std::string::npos);
}

TEST(Commands, CancelCarriesTheMessage) {
  FakeService service;
  v1::CancelJobRequest seen;
  service.cancel = [&](const v1::CancelJobRequest& request, v1::Job& job) {
    seen = request;
    job.set_id(request.id());
    job.set_state(v1::CANCELLING);
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service, {"cancel", "job-1", "--message", "wrong data"});
  EXPECT_EQ(outcome.out, "job-1 CANCELLING\n");
  EXPECT_EQ(seen.message(), "wrong data");
  EXPECT_FALSE(seen.request_id().empty());
}

TEST(Commands, CheckpointsFollowPages) {
  FakeService service;
  service.checkpoints = [](const v1::ListCheckpointsRequest& request,
                           v1::ListCheckpointsResponse& response) {
    EXPECT_EQ(request.id(), "job-1");
    const bool first = request.page_token().empty();
    response.add_checkpoints()->set_step(first ? 20 : 10);
    if (first) response.set_next_page_token("next");
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service, {"checkpoints", "job-1", "-o", "json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(json["checkpoints"].size(), 2u);
  EXPECT_EQ(json["checkpoints"][1]["step"], 10);
  EXPECT_EQ(json["next_page_token"], "");
}

TEST(Commands, MetricsFollowPagesAndKeepEvals) {
  FakeService service;
  service.metrics = [](const v1::ListMetricsRequest& request, v1::ListMetricsResponse& response) {
    const bool first = request.page_token().empty();
    response.add_steps()->set_step(first ? 5 : 6);
    response.add_evals()->set_step(first ? 5 : 7);
    if (first) response.set_next_page_token("next");
    EXPECT_EQ(request.from_step(), 5);
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service, {"metrics", "job-1", "--from-step", "5", "-o", "json"});
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["steps"].size(), 2u);
  EXPECT_EQ(json["evals"].size(), 2u);
}

TEST(Commands, UnimplementedIsToldAsItIs) {
  FakeService service;
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"pause", "x"},
                                                    {"resume", "x"},
                                                    {"export", "x", "--step", "3"},
                                                    {"info"},
                                                    {"delete", "x", "--outputs"},
                                                    {"checkpoints", "x"},
                                                    {"logs", "x"}}) {
    const Outcome outcome = emoectl(service, arguments);
    EXPECT_EQ(outcome.code, 1) << arguments[0];
    EXPECT_NE(outcome.err.find("error: UNIMPLEMENTED"), std::string::npos) << outcome.err;
  }
}

// Scripts get an error in the form they asked for, details and all.
TEST(Commands, ErrorsAsJson) {
  FakeService service;
  service.get = [](const v1::GetJobRequest&, v1::Job&) {
    return rich_error(grpc::StatusCode::INVALID_ARGUMENT, "2 problems", "INVALID_SPEC",
                      {{"emoe.experts", "must divide 48"}});
  };
  const Outcome outcome = emoectl(service, {"-o", "json", "get", "x"});
  EXPECT_EQ(outcome.code, 64);
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.err);
  EXPECT_EQ(json["code"], 3);
  EXPECT_EQ(json["message"], "2 problems");
  EXPECT_EQ(json["details"][0]["reason"], "INVALID_SPEC");
  EXPECT_EQ(json["details"][1]["field_violations"][0]["field"], "emoe.experts");

  const auto nobody = nlohmann::json::parse(emoectl_at("127.0.0.1:1", {"-o", "json", "list"}).err);
  EXPECT_EQ(nobody["code"], 14);

  testing::TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "job.yaml", "name: x\nnmae: y\n").ok());
  const Outcome file = emoectl(service, {"-o", "json", "submit", (dir / "job.yaml").string()});
  EXPECT_EQ(file.code, 64);
  const auto violation = nlohmann::json::parse(file.err)["details"][0]["field_violations"][0];
  EXPECT_NE(violation["description"].get<std::string>().find("job.yaml:2"), std::string::npos)
      << file.err;
}

TEST(Commands, AnUnreachableServerIsNamedAtOnce) {
  const Outcome outcome = emoectl_at("127.0.0.1:1", {"list"});
  EXPECT_EQ(outcome.code, 69);
  EXPECT_NE(outcome.err.find("no coordinator at 127.0.0.1:1: "), std::string::npos) << outcome.err;
  EXPECT_EQ(emoectl_at("127.0.0.1:1", {"watch", "x"}).code, 69);
}

TEST(Commands, ASilentServerIsGivenUp) {
  std::latch given_up(1);
  FakeService service;
  service.get = [&](const v1::GetJobRequest&, v1::Job&) {
    given_up.wait();
    return grpc::Status::OK;
  };
  const Outcome outcome = emoectl(service, {"--timeout", "0.05", "get", "x"});
  given_up.count_down();
  EXPECT_EQ(outcome.code, 69);
  EXPECT_NE(outcome.err.find("error: DEADLINE_EXCEEDED: no answer from"), std::string::npos);
}

TEST(Commands, TheTokenIsSentWithEachCall) {
  FakeService service;
  std::vector<std::string> seen;
  service.get = [](const v1::GetJobRequest& request, v1::Job& job) {
    job.set_id(request.id());
    job.set_state(v1::SUCCEEDED);
    return grpc::Status::OK;
  };
  service.watch = [&](grpc::ServerContext* context, const v1::WatchJobRequest&,
                      grpc::ServerWriter<v1::Event>& writer) {
    const auto found = context->client_metadata().find("authorization");
    if (found != context->client_metadata().end()) {
      seen.emplace_back(found->second.data(), found->second.size());
    }
    writer.Write(state_event(1, v1::SUCCEEDED));
    return grpc::Status::OK;
  };
  testing::TempDir dir;
  const auto file = dir.path() / "token";
  ASSERT_TRUE(write_file_atomically(file, "a-token\n").ok());
  ::setenv("EMOE_TOKEN_FILE", file.c_str(), 1);
  EXPECT_EQ(emoectl(service, {"watch", "job-1"}).code, 0);
  ::unsetenv("EMOE_TOKEN_FILE");
  EXPECT_EQ(emoectl(service, {"watch", "job-1", "--token-file", file.string()}).code, 0);
  EXPECT_EQ(emoectl(service, {"watch", "job-1"}).code, 0);
  EXPECT_EQ(seen, (std::vector<std::string>(2, "Bearer a-token")));
}

TEST(Commands, FilesThatCannotProtectAreRefusedBeforeAnythingIsSent) {
  FakeService service;
  service.list = [](const v1::ListJobsRequest&, v1::ListJobsResponse&) {
    ADD_FAILURE() << "sent";
    return grpc::Status::OK;
  };
  testing::TempDir dir;
  const std::string empty = (dir.path() / "empty").string();
  const std::string missing = (dir.path() / "missing").string();
  ASSERT_TRUE(write_file_atomically(empty, "\n").ok());
  const auto refused = [&](std::vector<std::string> arguments, const std::string& why) {
    arguments.emplace_back("list");
    const Outcome outcome = emoectl(service, arguments);
    EXPECT_EQ(outcome.code, 64) << outcome.err;
    EXPECT_NE(outcome.err.find(why), std::string::npos) << outcome.err;
  };
  refused({"--token-file", empty}, "holds no token");
  refused({"--token-file", missing}, missing);
  refused({"--tls-ca", missing}, missing);
  refused({"--tls-ca", empty}, "is no PEM file");
  const std::string key = (dir.path() / "key").string();
  ASSERT_TRUE(write_file_atomically(key, "-----BEGIN PRIVATE KEY-----\n").ok());
  refused({"--tls-ca", key}, "has no certificate");
  refused({"--tls-cert", empty, "--tls-key", empty}, "--tls-ca: is missing");
  refused({"--tls-ca", empty, "--tls-key", empty}, "--tls-cert: is missing");
}

v1::Job job_of(const std::string& id, const std::string& name) {
  v1::Job job;
  job.set_id(id);
  job.set_name(name);
  job.set_state(v1::QUEUED);
  return job;
}

TEST(Commands, AJobIsNamedByTheBeginningOfItsIdOrByItsName) {
  FakeService service;
  const std::vector<v1::Job> jobs{job_of("job-20260102-aa", "plain"),
                                  job_of("job-20260102-ab", "twice"),
                                  job_of("job-20260103-aa", "twice")};
  service.get = [&](const v1::GetJobRequest& request, v1::Job& job) {
    for (const v1::Job& known : jobs) {
      if (known.id() != request.id()) continue;
      job = known;
      return grpc::Status::OK;
    }
    return rich_error(grpc::StatusCode::NOT_FOUND, "no job " + request.id(), "JOB_NOT_FOUND");
  };
  service.list = [&](const v1::ListJobsRequest& request, v1::ListJobsResponse& response) {
    for (const v1::Job& job : jobs) {
      const bool by_id = request.filter().starts_with("id=\"");
      const size_t begin = std::string(by_id ? "id=\"" : "name=\"").size();
      const std::string wanted =
          request.filter().substr(begin, request.filter().size() - begin - 1);
      if (by_id ? job.id().starts_with(wanted) : job.name() == wanted) *response.add_jobs() = job;
    }
    return grpc::Status::OK;
  };
  std::string cancelled;
  service.cancel = [&](const v1::CancelJobRequest& request, v1::Job& job) {
    cancelled = request.id();
    job.set_id(request.id());
    return grpc::Status::OK;
  };
  for (const auto& [text, id] :
       {std::pair{"job-20260103", "job-20260103-aa"}, std::pair{"plain", "job-20260102-aa"},
        std::pair{"job-20260102-ab", "job-20260102-ab"}}) {
    EXPECT_NE(emoectl(service, {"get", text}).out.find(id), std::string::npos) << text;
    EXPECT_EQ(emoectl(service, {"cancel", text}).code, 0) << text;
    EXPECT_EQ(cancelled, id) << text;
  }
  const Outcome twice = emoectl(service, {"cancel", "twice"});
  EXPECT_EQ(twice.code, 64);
  EXPECT_EQ(twice.err,
            "error: INVALID_ARGUMENT: \"twice\" may mean 2 jobs; give more of the id\n"
            "  job-20260102-ab: QUEUED twice\n  job-20260103-aa: QUEUED twice\n");
  EXPECT_EQ(emoectl(service, {"get", "job-20260102"}).code, 64);
  for (const char* nothing : {"", "other", "a\"quote"}) {
    const Outcome outcome = emoectl(service, {"cancel", nothing});
    EXPECT_EQ(outcome.code, 1) << nothing;
    EXPECT_NE(outcome.err.find("JOB_NOT_FOUND"), std::string::npos) << outcome.err;
  }
}

TEST(Commands, ATimeoutIsWrittenAsOtherDurationsAre) {
  FakeService service;
  service.list = [](const v1::ListJobsRequest&, v1::ListJobsResponse&) { return grpc::Status::OK; };
  for (const char* good : {"5", "5s", "1m30s", "0.5s", "250ms"}) {
    EXPECT_EQ(emoectl(service, {"--timeout", good, "list"}).code, 0) << good;
  }
  for (const char* bad : {"0", "0s", "soon", "5 s", "-1s", "1000d"}) {
    const Outcome outcome = emoectl(service, {"--timeout", bad, "list"});
    EXPECT_EQ(outcome.code, 64) << bad;
    EXPECT_NE(outcome.err.find("--timeout"), std::string::npos) << outcome.err;
  }
}

// Proxies of company networks are for the outside world; nobody listens at this one.
TEST(Commands, AProxyOfTheEnvironmentIsUsedOnlyWhereItIsAskedFor) {
  FakeService service;
  service.list = [](const v1::ListJobsRequest&, v1::ListJobsResponse&) { return grpc::Status::OK; };
  for (const char* variable : {"http_proxy", "https_proxy", "grpc_proxy"}) {
    ::setenv(variable, "http://127.0.0.1:9", 1);
    EXPECT_EQ(emoectl(service, {"list"}).code, 0) << variable;
    EXPECT_EQ(emoectl(service, {"--proxy", "--timeout", "300ms", "list"}).code, 69) << variable;
    ::unsetenv(variable);
  }
}

TEST(Commands, WrongArgumentsAre64AndHelpIsTheManual) {
  const std::string nowhere = "127.0.0.1:1";
  EXPECT_EQ(emoectl_at(nowhere, {}).code, 64);
  EXPECT_EQ(emoectl_at(nowhere, {"frobnicate"}).code, 64);
  EXPECT_EQ(emoectl_at(nowhere, {"get"}).code, 64);
  EXPECT_EQ(emoectl_at(nowhere, {"list", "-o", "xml"}).code, 64);
  EXPECT_EQ(emoectl_at(nowhere, {"watch", "x", "--from", "-1"}).code, 64);
  const Outcome help = emoectl_at(nowhere, {"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* word : {"submit", "plan", "get", "list", "watch", "logs", "cancel", "pause",
                           "resume", "delete", "metrics", "checkpoints", "export", "info",
                           "EMOE_SERVER", "EMOE_TOKEN_FILE", "Exit codes"}) {
    EXPECT_NE(help.out.find(word), std::string::npos) << word;
  }
  EXPECT_EQ(emoectl_at(nowhere, {"submit", "--help"}).code, 0);
  EXPECT_EQ(emoectl_at(nowhere, {"--version"}).code, 0);
}

// Else gRPC would look for hosts of such names.
TEST(Commands, AnAddressIsHostAndPort) {
  for (const auto& [server, said] : std::vector<std::pair<std::string, std::string>>{
           {"http://localhost:7070", "wanted is HOST:PORT, such as \"localhost:7070\""},
           {"localhost", "\"localhost\" is not HOST:PORT"},
           {":7070", "is not HOST:PORT"},
           {"[::1]", "is not HOST:PORT"}}) {
    const Outcome outcome = emoectl_at(server, {"list"});
    EXPECT_EQ(outcome.code, 64) << server;
    EXPECT_NE(outcome.err.find(said), std::string::npos) << outcome.err;
  }
  const FakeService service;
  EXPECT_EQ(emoectl_at("dns:///" + service.address(), {"info"}).code, 1);  // it is reached
}

}  // namespace
}  // namespace emoe::cli
