// The object that is created, and what an administrator's template makes of it.
#include "launcher/kubernetes/mpi_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/kubernetes/launch_script.h"
#include "tests/support/temp_dir.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class MpiJobTest : public ::testing::Test {
 protected:
  json make(const PodTemplate& pods = {}) {
    const auto job = mpi_job(request_, settings_, pods);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : json();
  }
  static const json& pod(const json& job, const char* role) {
    return job["spec"]["mpiReplicaSpecs"][role]["template"];
  }
  Result<PodTemplate> read(const std::string& text) {
    return PodTemplate::read(dir_.write("template.yaml", text));
  }
  std::string problem(const std::string& text) {
    return std::string(read(text).status().message());
  }

  testing::TempDir dir_;
  PodSettings settings_{
      .image = "registry/emoe:1", .memory_per_rank = "1500Mi", .rank_guard = "/g"};
  LaunchRequest request_{.job_id = "job-20261126-230435-e0e4760d",
                         .attempt = 2,
                         .ranks = 5,
                         .threads_per_rank = 3,
                         .worker_argv = {"/w", "run", "a 'b'; $(rm).yaml"},
                         .attempt_dir = "/data/jobs/j/attempt_2"};
};

TEST_F(MpiJobTest, RanksInPods) {
  settings_.ranks_per_pod = 2;
  settings_.gpus_per_rank = 1;
  const json job = make();
  EXPECT_EQ(job["metadata"]["name"], "job-20261126-230435-e0e4760d-2");
  EXPECT_EQ(job["spec"]["slotsPerWorker"], 2);
  EXPECT_EQ(job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"], 3);
  const json& ranks = pod(job, "Worker")["spec"]["containers"][0];
  EXPECT_EQ(ranks["resources"],
            (json{{"requests", {{"cpu", "6"}, {"memory", "3000Mi"}}},
                  {"limits", {{"cpu", "6"}, {"memory", "3000Mi"}, {"nvidia.com/gpu", "2"}}}}));
  EXPECT_EQ(pod(job, "Worker")["spec"]["volumes"][0],
            (json{{"name", "shm"}, {"emptyDir", {{"medium", "Memory"}, {"sizeLimit", "1Gi"}}}}));
  const json& launcher = pod(job, "Launcher")["spec"]["containers"][0];
  EXPECT_EQ(launcher["args"], (json{"mpirun", "--bind-to", "none", "--", "/g", "rank", "0", "apart",
                                    "--", "/w", "run", "a 'b'; $(rm).yaml"}));
  EXPECT_EQ(launcher["command"], (json{"bash", "-c", launch_script(), "emoe-launch"}));
  EXPECT_FALSE(job["spec"]["runPolicy"].contains("suspend"));
}

TEST_F(MpiJobTest, WhatAJobWantsWinsOverTheService) {
  settings_.queue = "research";
  settings_.gpus_per_rank = 1;
  const PodSettings same = combined({}, settings_);
  EXPECT_EQ(same.queue, "research");
  EXPECT_EQ(same.ranks_per_pod, 1);
  settings_ = combined({.queue = "urgent",
                        .image = "mine:2",
                        .ranks_per_pod = 5,
                        .gpus_per_rank = 2,
                        .memory_per_rank = "2Gi",
                        .shm_size = "3Gi"},
                       settings_);
  const json job = make();
  EXPECT_EQ(job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "urgent");
  EXPECT_EQ(job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"], 1);
  const json& spec = pod(job, "Worker")["spec"];
  EXPECT_EQ(spec["containers"][0]["image"], "mine:2");
  EXPECT_EQ(spec["containers"][0]["resources"]["limits"]["memory"], "10Gi");
  EXPECT_EQ(spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], "10");
  EXPECT_EQ(spec["volumes"][0]["emptyDir"]["sizeLimit"], "3Gi");
}

TEST_F(MpiJobTest, ThroughAQueueOfKueue) {
  settings_.queue = "research";
  const json job = make();
  EXPECT_EQ(job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "research");
  EXPECT_EQ(job["spec"]["runPolicy"]["suspend"], true);
}

TEST_F(MpiJobTest, NamesAreLabelsAndDiffer) {
  EXPECT_EQ(mpi_job_name("job-1", 12), "job-1-12");
  const std::string long_id(80, 'x');
  for (const std::string& id : {long_id, std::string("Job_1"), std::string("7"), std::string("")}) {
    EXPECT_THAT(mpi_job_name(id, 1), MatchesRegex("[a-z][a-z0-9-]{0,50}[a-z0-9]")) << id;
  }
  EXPECT_NE(mpi_job_name("Job_1", 1), mpi_job_name("job_1", 1));
}

TEST_F(MpiJobTest, ThereIsTimeForTheCheckpointsThatWereMeasured) {
  EXPECT_EQ(grace_period(300s, 0s), 300s);
  EXPECT_EQ(grace_period(300s, 10s), 300s);
  EXPECT_EQ(grace_period(300s, std::chrono::duration<double>(200.2)), 461s);
  request_.checkpoint_time = 300s;
  for (const char* role : {"Launcher", "Worker"}) {
    EXPECT_EQ(pod(make(), role)["spec"]["terminationGracePeriodSeconds"], 660) << role;
  }
}

TEST_F(MpiJobTest, WhatCannotBeLaunched) {
  settings_.image.clear();
  EXPECT_THAT(std::string(mpi_job(request_, settings_, {}).status().message()),
              HasSubstr("no image for the container mpirun: set launcher.kubernetes.image"));
  settings_.image = "i";
  settings_.memory_per_rank = "1.5Gi";
  EXPECT_THAT(std::string(mpi_job(request_, settings_, {}).status().message()),
              HasSubstr("\"1.5Gi\" is no quantity"));
}

// ---------------------------------------------------------------- the template
TEST_F(MpiJobTest, ATemplateIsMergedAndLosesNothing) {
  const auto given = read(R"(
pods:
  metadata: {labels: {team: research}, annotations: {"sidecar.istio.io/inject": "false"}}
  spec:
    serviceAccountName: ranks
    tolerations: [{key: gpu, operator: Exists}]
    volumes:
      - {name: data, persistentVolumeClaim: {claimName: emoe-data}}
      - {name: shm, emptyDir: {medium: Memory, sizeLimit: 64Gi}}
    containers:
      - {name: mpirun, volumeMounts: [&data {name: data, mountPath: /data}]}
      - {name: ranks, volumeMounts: [*data]}
worker:
  spec:
    terminationGracePeriodSeconds: 900
    nodeSelector: {gpu: "true"}
    containers:
      - name: ranks
        env: [{name: NCCL_DEBUG, value: INFO}]
        resources: {limits: {rdma/hca: 1}}
      - {name: sidecar, image: s, args: [x]}
)");
  ASSERT_TRUE(given.ok()) << given.status();
  const json job = make(*given);
  const json& worker = pod(job, "Worker");
  EXPECT_EQ(worker["metadata"]["labels"]["team"], "research");
  EXPECT_EQ(worker["metadata"]["labels"][kRoleLabel], "worker");
  EXPECT_EQ(worker["metadata"]["annotations"]["sidecar.istio.io/inject"], "false");
  const json& spec = worker["spec"];
  EXPECT_EQ(spec["serviceAccountName"], "ranks");
  EXPECT_EQ(spec["terminationGracePeriodSeconds"], 900);
  EXPECT_EQ(spec["nodeSelector"]["gpu"], "true");
  EXPECT_EQ(spec["securityContext"]["runAsNonRoot"], true);
  ASSERT_EQ(spec["volumes"].size(), 3u);
  EXPECT_EQ(spec["volumes"][0]["emptyDir"]["sizeLimit"], "64Gi");
  ASSERT_EQ(spec["containers"].size(), 2u);
  const json& ranks = spec["containers"][0];
  EXPECT_EQ(ranks["volumeMounts"].size(), 3u);
  EXPECT_EQ(ranks["resources"]["limits"],
            (json{{"cpu", "3"}, {"memory", "1500Mi"}, {"rdma/hca", 1}}));
  EXPECT_EQ(ranks["env"][0]["name"], "NCCL_DEBUG");
  const json& launcher = pod(job, "Launcher")["spec"];
  ASSERT_EQ(launcher["containers"].size(), 1u) << "neither ranks nor their sidecar";
  EXPECT_EQ(launcher["containers"][0]["volumeMounts"].size(), 2u);
  EXPECT_EQ(launcher["containers"][0]["env"].size(), 3u);
  EXPECT_FALSE(launcher.contains("nodeSelector"));
  EXPECT_EQ(launcher["tolerations"][0]["key"], "gpu");
}

TEST_F(MpiJobTest, ATemplateThatIsNone) {
  EXPECT_THAT(problem("pod: {}"), HasSubstr("pod: unknown key; use pods, launcher, worker"));
  EXPECT_THAT(problem("pods: {containers: []}"), HasSubstr("pods.containers: unknown key"));
  EXPECT_THAT(problem("worker: {spec: {containers: [{name: ranks, args: [x]}]}}"),
              HasSubstr("args of the container ranks is the attempt's own"));
  EXPECT_THAT(problem("worker: {spec: {containers: [{image: x}]}}"), HasSubstr("without a name"));
  EXPECT_THAT(problem("worker: {spec: {a: 1, a: 2}}"), HasSubstr("the key a stands twice"));
  EXPECT_THAT(problem("[1"), HasSubstr("template.yaml"));
  EXPECT_EQ(PodTemplate::read(dir_ / "none").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace emoe::launcher
