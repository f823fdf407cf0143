// The Kubernetes launcher against an API server in memory: nothing is started and no time passes.
#include "launcher/kubernetes/kubernetes_launcher.h"

#include <algorithm>
#include <csignal>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/launcher/fake_api_server.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_dir.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kName = "job-1-2";

class KubernetesLauncherTest : public ::testing::Test {
 protected:
  KubernetesLauncherTest() {
    auto server = std::make_unique<FakeApiServer>();
    server_ = server.get();
    launcher_ = std::make_unique<KubernetesLauncher>(
        KubernetesLauncher::Config{.pods = {.image = "i", .rank_guard = "/bin/emoe-supervise"}},
        ClusterAccess{.server = "https://k", .cluster_namespace = "ns", .token = {"t", ""}},
        std::move(server), clock_);
  }

  LaunchRequest request() {
    LaunchRequest request;
    request.job_id = "job-1";
    request.attempt = 2;
    request.ranks = 2;
    request.worker_argv = {"/bin/worker", "run", "a b; $(rm) \"'.yaml"};
    request.environment = {{"EMOE_ATTEMPT_TOKEN", "se'cret"}};
    request.attempt_dir = dir_.path();
    return request;
  }
  LaunchHandle handle() { return launcher_->handle_of("job-1", 2, dir_.path()); }
  Result<LaunchHandle> launch() { return launcher_->launch(request()); }
  // What the watches bring, then the question.
  Result<AttemptStatus> poll() {
    clock_.advance(1min);
    (void)launcher_->jobs().round({});
    (void)launcher_->pods().round({});
    return launcher_->poll(handle());
  }
  json& job() { return server_->objects["mpijobs"][kName]; }
  json& pod(const std::string& role) {
    json& pod = server_->objects["pods"][role];
    if (pod.is_null()) {
      pod = {{"metadata",
              {{"name", role},
               {"uid", role},
               {"labels", {{kAttemptLabel, kName}, {kRoleLabel, role}}}}},
             {"status", {{"phase", "Running"}}}};
    }
    return pod;
  }
  void take() { std::filesystem::create_symlink("pod-uid", dir_ / "kubernetes_run"); }
  void leave_exit(int rank, int code, int signal = 0) {
    ASSERT_TRUE(write_rank_exit(AttemptFiles(dir_.path()), {rank, {code, signal}, 1, "last"}).ok());
  }
  // The MPIJob and its pods, as after a deletion in the foreground.
  void all_gone() {
    server_->objects["mpijobs"].clear();
    server_->objects["pods"].clear();
    relist();
  }
  // The next rounds list: changes that the fake's watches do not tell.
  void relist() {
    const json expired{{"type", "ERROR"}, {"object", {{"code", 410}}}};
    clock_.advance(1min);
    server_->watched = {expired.dump() + "\n", expired.dump() + "\n"};
    (void)launcher_->jobs().round({});
    (void)launcher_->pods().round({});
  }
  // How the attempt ended, once everything is gone.
  AttemptEnd end() {
    relist();
    const auto leaving = poll();
    EXPECT_TRUE(leaving.ok()) << leaving.status();
    EXPECT_NE(leaving->phase, AttemptPhase::ended) << "its pods are there";
    EXPECT_THAT(server_->requests, Contains(HasSubstr("DELETE /apis/kubeflow.org")));
    all_gone();
    const auto status = poll();
    EXPECT_EQ(status->phase, AttemptPhase::ended);
    return status->end;
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  FakeApiServer* server_ = nullptr;
  std::unique_ptr<KubernetesLauncher> launcher_;
};

TEST_F(KubernetesLauncherTest, FromTheQueueToTheEnd) {
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(launch().ok());
  EXPECT_EQ(poll()->waiting, "MPIJob job-1-2 was just created");
  EXPECT_THAT(poll()->waiting, HasSubstr("the MPI operator has done nothing about it for 60 s"));
  pod("worker");
  pod("launcher")["status"]["phase"] = "Pending";
  relist();
  EXPECT_EQ(poll()->waiting, "MPIJob job-1-2: 0 of 2 pods are ready");
  pod("launcher")["status"]["phase"] = "Running";
  take();
  relist();
  EXPECT_EQ(poll()->phase, AttemptPhase::running);
  pod("launcher")["status"]["phase"] = "Succeeded";
  ASSERT_TRUE(write_file_atomically(dir_ / "kubernetes_exit", "0\n").ok());
  const AttemptEnd ended = end();
  EXPECT_EQ(ended.cause, EndCause::ranks);
  EXPECT_EQ(ended.exit_code, 0);
}

TEST_F(KubernetesLauncherTest, TellsWhatHasNoNodeAndHowManyRanksHaveOne) {
  ASSERT_TRUE(launch().ok());
  job()["spec"]["slotsPerWorker"] = 3;
  const auto scheduled = [&](const char* name, const char* status, const char* reason) {
    pod(name)["metadata"]["labels"][kRoleLabel] = "worker";
    pod(name)["status"] = {{"phase", "Pending"},
                           {"conditions",
                            {{{"type", "PodScheduled"},
                              {"status", status},
                              {"reason", reason},
                              {"message", "0/3 nodes are available"}}}}};
  };
  scheduled("worker-0", "True", "");
  scheduled("worker-1", "False", "Unschedulable");
  relist();
  const auto waits = poll();
  EXPECT_EQ(waits->phase, AttemptPhase::queued);
  EXPECT_EQ(waits->waiting, "pod worker-1 has no node yet: Unschedulable: 0/3 nodes are available");
  EXPECT_TRUE(waits->no_room);
  EXPECT_EQ(waits->room, 3);
  scheduled("worker-1", "False",
            "SchedulingGated");  // somebody keeps it back, whatever room there is
  relist();
  EXPECT_FALSE(poll()->no_room);
}

TEST_F(KubernetesLauncherTest, WhatWasLaunchedIsNotLaunchedAgain) {
  ASSERT_TRUE(launch().ok());
  server_->requests.clear();
  ASSERT_TRUE(launch().ok());
  EXPECT_TRUE(server_->requests.empty());
  // Another coordinator, which was not told: the cluster has one of the name.
  std::filesystem::remove(dir_ / "kubernetes_job");
  EXPECT_EQ(poll()->phase, AttemptPhase::queued);
  EXPECT_TRUE(launch().ok());
  EXPECT_EQ(server_->objects["mpijobs"].size(), 1u);
}

TEST_F(KubernetesLauncherTest, TheTokenIsInAFileOfItsOwnersOnly) {
  ASSERT_TRUE(launch().ok());
  EXPECT_THAT(server_->created.dump(), Not(HasSubstr("cret")));
  EXPECT_THAT(*read_file(dir_ / "rank_environment"),
              HasSubstr("export EMOE_ATTEMPT_TOKEN='se'\\''cret'\n"));
  EXPECT_EQ(std::filesystem::status(dir_ / "rank_environment").permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(KubernetesLauncherTest, AForeignMpiJobOfTheNameIsNotOurs) {
  server_->set("mpijobs",
               {{"metadata", {{"name", kName}, {"annotations", {{kFolderAnnotation, "/x"}}}}}});
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
  const auto launched = launch();
  EXPECT_EQ(launched.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(launched.status().message()), HasSubstr("not of this attempt"));
  EXPECT_THAT(server_->requests, Not(Contains(HasSubstr("DELETE"))));
}

const auto kSilence = [](const HttpRequest&) {
  return Result<HttpAnswer>(absl::AbortedError("reset"));
};

TEST_F(KubernetesLauncherTest, ACreateWithoutAnAnswerIsWithdrawnWhereNobodyCanBeAsked) {
  (void)poll();
  server_->next([](const HttpRequest&) { return std::nullopt; });  // GET
  server_->next([](const HttpRequest&) { return std::nullopt; });  // LIST
  server_->next(kSilence);                                         // POST
  server_->next(kSilence);                                         // GET
  EXPECT_EQ(launch().status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
  // It comes late, and goes again.
  server_->set("mpijobs", {{"metadata",
                            {{"name", kName},
                             {"labels", {{kManagedByLabel, kManager}}},
                             {"annotations", {{kFolderAnnotation, dir_.path().string()}}}}}});
  relist();
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
  launcher_->sweep();
  EXPECT_THAT(server_->requests, Contains(HasSubstr("DELETE")));
}

TEST_F(KubernetesLauncherTest, ACreateWithoutAnAnswerIsAskedFor) {
  for (const bool arrives : {true, false}) {
    std::filesystem::remove(dir_ / "kubernetes_job");
    server_->objects["mpijobs"].clear();
    clock_.advance(1min);
    server_->requests.clear();
    server_->next([](const HttpRequest&) { return std::nullopt; });  // GET
    server_->next([](const HttpRequest&) { return std::nullopt; });  // LIST
    server_->next([&](const HttpRequest& post) {
      if (arrives) server_->set("mpijobs", json::parse(post.body));
      return Result<HttpAnswer>(absl::AbortedError("reset"));
    });
    EXPECT_TRUE(launch().ok()) << arrives;
    EXPECT_EQ(std::ranges::count(server_->requests,
                                 "POST /apis/kubeflow.org/v2beta1/namespaces/ns/mpijobs"),
              arrives ? 1 : 2);
    EXPECT_EQ(server_->objects["mpijobs"].size(), 1u);
  }
}

TEST_F(KubernetesLauncherTest, ARefusalIsSaidAndLeavesNothing) {
  server_->next([](const HttpRequest&) { return std::nullopt; });
  server_->next([](const HttpRequest&) { return std::nullopt; });
  server_->next_status(422, "Invalid", "spec.x: Required value");
  const auto launched = launch();
  EXPECT_EQ(launched.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(launched.status().message()), HasSubstr("spec.x: Required value"));
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
}

TEST_F(KubernetesLauncherTest, AServerThatIsAwayIsNoEnd) {
  ASSERT_TRUE(launch().ok());
  EXPECT_EQ(poll()->phase, AttemptPhase::queued);
  for (int i = 0; i < 4; ++i) server_->next_status(503);
  EXPECT_EQ(poll()->phase, AttemptPhase::unknown);
}

struct Ending {
  const char* what;
  json launcher_status;
  json worker_status;
  EndCause cause;
  int code = 0;
  bool memory = false;
};

json disrupted(const char* reason) {
  return {{"phase", "Failed"},
          {"conditions", {{{"type", "DisruptionTarget"}, {"status", "True"}, {"reason", reason}}}}};
}
json stopped(const char* container, int code, const char* reason) {
  return {{"phase", "Failed"},
          {"containerStatuses",
           {{{"name", container},
             {"state", {{"terminated", {{"exitCode", code}, {"reason", reason}}}}}}}}};
}

TEST_F(KubernetesLauncherTest, WhatTheClusterSaysOfAnEnd) {
  const json fine{{"phase", "Running"}};
  const std::vector<Ending> endings{
      {"drained", stopped("mpirun", 75, "Error"), disrupted("EvictionByEvictionAPI"),
       EndCause::preempted, 75},
      {"preempted", disrupted("PreemptionByScheduler"), fine, EndCause::preempted, 0},
      {"node lost", disrupted("DeletionByTaintManager"), fine, EndCause::node_lost, 0},
      {"memory", stopped("mpirun", 137, "Error"), stopped("ranks", 137, "OOMKilled"),
       EndCause::ranks, 0, true},
      {"pressure",
       {{"phase", "Failed"}, {"reason", "Evicted"}, {"message", "The node was low on resource"}},
       fine,
       EndCause::preempted,
       0},
      {"its own limit",
       {{"phase", "Failed"}, {"reason", "Evicted"}, {"message", "Usage exceeds the limit"}},
       fine,
       EndCause::ranks,
       74},
      {"mpirun", stopped("mpirun", 1, "Error"), fine, EndCause::ranks, 1}};
  take();
  for (const Ending& ending : endings) {
    std::filesystem::remove(dir_ / "kubernetes_job");
    std::filesystem::remove(dir_ / "end.json");
    job() = {{"metadata",
              {{"name", kName}, {"annotations", {{kFolderAnnotation, dir_.path().string()}}}}}};
    pod("launcher")["status"] = ending.launcher_status;
    pod("worker")["status"] = ending.worker_status;
    const AttemptEnd ended = end();
    EXPECT_EQ(ended.cause, ending.cause) << ending.what;
    EXPECT_EQ(ended.out_of_memory, ending.memory) << ending.what;
    if (ending.code != 0) {
      EXPECT_EQ(ended.exit_code, ending.code) << ending.what;
    }
  }
}

TEST_F(KubernetesLauncherTest, WhatARankSaysOfItselfStands) {
  ASSERT_TRUE(launch().ok());
  take();
  leave_exit(1, 65);
  pod("launcher")["status"] = disrupted("EvictionByEvictionAPI");
  const AttemptEnd ended = end();
  EXPECT_EQ(ended.cause, EndCause::ranks);
  EXPECT_EQ(ended.exit_code, 65);
  EXPECT_EQ(ended.rank, 1);
}

TEST_F(KubernetesLauncherTest, AnImageThatDoesNotComeIsWaitedForAWhile) {
  ASSERT_TRUE(launch().ok());
  pod("worker")["status"] = {
      {"phase", "Pending"},
      {"containerStatuses",
       {{{"name", "ranks"},
         {"image", "i"},
         {"state", {{"waiting", {{"reason", "ImagePullBackOff"}, {"message", "not found"}}}}}}}}};
  relist();
  EXPECT_EQ(poll()->waiting,
            "pod worker: the image i cannot be pulled: ImagePullBackOff: not found");
  clock_.advance(10min);
  const AttemptEnd ended = end();
  EXPECT_EQ(ended.cause, EndCause::not_started);
  EXPECT_THAT(ended.detail, HasSubstr("cannot be pulled"));
}

TEST_F(KubernetesLauncherTest, ALauncherPodThatIsNotInTheListYetIsNoEnd) {
  ASSERT_TRUE(launch().ok());
  pod("worker");
  relist();
  EXPECT_EQ(poll()->phase, AttemptPhase::queued);
  take();  // the watch has not brought the pod
  pod("launcher");
  EXPECT_EQ(poll()->phase, AttemptPhase::running);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "end.json"));
}

// An answer that was on its way while the watch heard of the deletion brings nothing back.
TEST_F(KubernetesLauncherTest, WhatWasDeletedStaysSo) {
  ASSERT_TRUE(launch().ok());
  job()["metadata"]["deletionTimestamp"] = "2026-12-01T00:00:00Z";
  EXPECT_EQ(launcher_->poll(handle())->phase, AttemptPhase::unknown);  // no watch has said anything
  (void)launcher_->jobs().round({});
  (void)launcher_->pods().round({});
  const json gone = job();
  server_->objects["mpijobs"].clear();
  relist();
  (void)launcher_->jobs().round({});
  (void)launcher_->pods().round({});
  server_->next([&](const HttpRequest&) {
    return Result<HttpAnswer>(HttpAnswer{200, gone.dump(), {}});
  });
  EXPECT_EQ(launcher_->poll(handle())->phase, AttemptPhase::ended);
}

TEST_F(KubernetesLauncherTest, DeletedBySomebodyElse) {
  ASSERT_TRUE(launch().ok());
  take();
  all_gone();
  const auto status = poll();
  EXPECT_EQ(status->phase, AttemptPhase::ended);
  EXPECT_EQ(status->end.cause, EndCause::cancelled);
}

TEST_F(KubernetesLauncherTest, AGracefulStopDeletesAndAKillHurriesThePods) {
  EXPECT_EQ(launcher_->stop(handle(), StopMode::kill).code(), StatusCode::kNotFound);
  ASSERT_TRUE(launch().ok());
  take();
  pod("launcher");
  relist();
  server_->requests.clear();
  EXPECT_TRUE(launcher_->stop(handle(), StopMode::graceful).ok());
  EXPECT_THAT(server_->requests, Contains(HasSubstr("DELETE /apis/kubeflow.org")));
  EXPECT_THAT(server_->requests, Not(Contains(HasSubstr("DELETE /api/v1"))));
  EXPECT_TRUE(launcher_->stop(handle(), StopMode::kill).ok());
  EXPECT_EQ(server_->requests.back(), "DELETE /api/v1/namespaces/ns/pods/launcher");
  const size_t asked = server_->requests.size();
  EXPECT_TRUE(launcher_->stop(handle(), StopMode::kill).ok());  // it takes its time
  EXPECT_EQ(server_->requests.size(), asked);
}

// Its kubelet will not answer; nobody waits for it for ever.
TEST_F(KubernetesLauncherTest, APodOnALostNodeIsNotWaitedFor) {
  ASSERT_TRUE(launch().ok());
  take();
  job()["metadata"]["deletionTimestamp"] = "2026-12-01T00:00:00Z";
  json& gone = pod("launcher");
  gone["metadata"]["deletionTimestamp"] = "2026-12-01T00:00:00Z";
  gone["metadata"]["deletionGracePeriodSeconds"] = 300;
  relist();
  EXPECT_EQ(poll()->waiting, "the attempt has ended, its pods are being removed");
  clock_.advance(4min);
  EXPECT_EQ(poll()->phase, AttemptPhase::queued);
  clock_.advance(1min);
  EXPECT_EQ(poll()->phase, AttemptPhase::ended);
}

TEST_F(KubernetesLauncherTest, ForeignHandles) {
  for (const char* text : {"slurm:x:/y", "kubernetes:", "kubernetes:x"}) {
    EXPECT_EQ(launcher_->poll({text}).status().code(), StatusCode::kNotFound) << text;
  }
  EXPECT_EQ(launcher_->poll({"kubernetes:other/x:/y"}).status().code(),
            StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace emoe::launcher
