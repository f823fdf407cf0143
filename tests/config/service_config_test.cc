#include "base/file.h"
#include "tests/config/support.h"
#include "tests/support/temp_dir.h"

namespace emoe::config {
namespace {

TEST(CoordinatorConfig, DefaultsAndOverrides) {
  const auto config = parse_coordinator_config("slots: {total: 4}", "c.yaml",
                                               {"listen=[::1]:0", "liveness.session_timeout=2s"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->listen(), "[::1]:0");
  EXPECT_EQ(config->advertise(), "");
  EXPECT_EQ(config->metrics_listen(), "127.0.0.1:7071");
  EXPECT_EQ(config->slots().total(), 4);
  EXPECT_EQ(config->liveness().session_timeout().seconds(), 2);
  EXPECT_EQ(config->liveness().join_timeout().seconds(), 120);
  EXPECT_EQ(config->launcher().kind(), "local");
  EXPECT_EQ(config->launcher().log_limit_bytes(), 64 << 20);
  EXPECT_EQ(config->queue().max_jobs(), 1000);
}

TEST(CoordinatorConfig, ReportsStructureAndValuesTogether) {
  const auto config = parse_coordinator_config(
      "listen: nowhere\nadvertise: here\nmetrics_listen: a:70000\nslot: {total: 1}\nliveness:\n  "
      "join_timeout: 0s\n"
      "launcher: {kind: pbs}\nqueue: {max_jobs: many}\n",
      "c.yaml", {});
  EXPECT_EQ(config.status().code(), StatusCode::kInvalidArgument);
  const auto lines = problems_of(config.status());
  EXPECT_EQ(lines.size(), 7u) << joined(lines);
  EXPECT_PROBLEM(lines, "c.yaml:1: listen: expected host:port");
  EXPECT_PROBLEM(lines, "c.yaml:2: advertise: expected host:port");
  EXPECT_PROBLEM(lines, "c.yaml:3: metrics_listen: expected host:port");
  EXPECT_PROBLEM(lines, "c.yaml:4: slot: unknown key (did you mean \"slots\"?)");
  EXPECT_PROBLEM(lines, "c.yaml:6: liveness.join_timeout: must be above 0");
  EXPECT_PROBLEM(lines,
                 "c.yaml:7: launcher.kind: unknown word \"pbs\"; use local, slurm, kubernetes");
  EXPECT_PROBLEM(lines, "c.yaml:8: queue.max_jobs: expected a whole number");
}

TEST(CoordinatorConfig, RanksCanConnectToWhatIsAdvertised) {
  for (const char* bad :
       {"host:0", "http://host:7070", "grpc://host:7070", "host:7070/", "host 1:7070"}) {
    const auto lines = problems_of(
        parse_coordinator_config("", "c.yaml", {std::string("advertise=") + bad}).status());
    EXPECT_EQ(lines.size(), 1u) << bad;
    EXPECT_PROBLEM(lines, "--set: advertise: expected host:port");
  }
  for (const char* good : {"host:7070", "[fd00::1]:7070", "10.0.0.1:1"}) {
    EXPECT_TRUE(parse_coordinator_config("", "c.yaml", {std::string("advertise=") + good}).ok())
        << good;
  }
  EXPECT_FALSE(parse_coordinator_config("", "c.yaml", {"listen=http://127.0.0.1:0"}).ok());
}

// An empty root would be made an absolute path: the folder the service was started in.
TEST(CoordinatorConfig, AListHasNoEmptyTexts) {
  const auto lines = problems_of(parse_coordinator_config("allowed_roots: [/data, \"\"]", "c.yaml",
                                                          {"launcher.mpirun_args=['']"})
                                     .status());
  EXPECT_EQ(lines, (std::vector<std::string>{"c.yaml:1: allowed_roots[1]: must not be empty",
                                             "--set: launcher.mpirun_args[0]: must not be empty"}));
}

TEST(CoordinatorConfig, HostsAreCheckedOneByOne) {
  const auto config = parse_coordinator_config(
      "launcher: {hosts: [{name: n1, slots: 4}, {name: n2, slots: 2, gpus: 2}]}", "c.yaml", {});
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->launcher().hosts_size(), 2);
  EXPECT_EQ(config->launcher().hosts(0).gpus(), 0);
  EXPECT_TRUE(config->launcher().hosts(0).has_gpus());  // filled in
  EXPECT_EQ(config->launcher().hosts(1).gpus(), 2);
  EXPECT_EQ(config->launcher().remote_shell(0), "ssh");
  const auto lines =
      problems_of(parse_coordinator_config("launcher:\n  hosts:\n  - {slots: 4}\n  - {name: n2, "
                                           "slots: 0}\n  - {name: n3, slot: 1}\n",
                                           "c.yaml", {})
                      .status());
  EXPECT_EQ(lines.size(), 4u) << joined(lines);
  EXPECT_PROBLEM(lines, "c.yaml:3: launcher.hosts[0].name: is required");
  EXPECT_PROBLEM(lines, "c.yaml:4: launcher.hosts[1].slots: must be at least 1");
  EXPECT_PROBLEM(lines, "c.yaml:5: launcher.hosts[2].slot: unknown key");
  EXPECT_PROBLEM(lines, "launcher.hosts[2].slots: is required");
}

TEST(CoordinatorConfig, WhatSlurmIsTold) {
  const auto config = parse_coordinator_config(
      "launcher: {kind: slurm, slurm: {partition: gpu, time_limit: 2h, extra_args: [--mem=8G]}}",
      "c.yaml", {});
  ASSERT_TRUE(config.ok()) << config.status();
  const v1::SlurmConfig& slurm = config->launcher().slurm();
  EXPECT_EQ(slurm.partition(), "gpu");
  EXPECT_EQ(slurm.time_limit().seconds(), 7200);
  EXPECT_EQ(slurm.warning_time().seconds(), 300);
  EXPECT_EQ(slurm.job_may_set_size(), 6);
  const auto lines =
      problems_of(parse_coordinator_config(
                      "launcher: {slurm: {extra_args: [gpu], job_may_set: [user]}}", "c.yaml", {})
                      .status());
  EXPECT_EQ(lines.size(), 2u) << joined(lines);
  EXPECT_PROBLEM(lines, "c.yaml:1: launcher.slurm.extra_args[0]: an option begins with -");
  EXPECT_PROBLEM(lines, "c.yaml:1: launcher.slurm.job_may_set[0]: unknown word \"user\"");
}

TEST(CoordinatorConfig, WhatKubernetesIsTold) {
  const auto config = parse_coordinator_config(
      "launcher: {kind: kubernetes, kubernetes: {image: i, queue: q, template: t.yaml}}", "c.yaml",
      {"launcher.kubernetes.namespace=emoe"});
  ASSERT_TRUE(config.ok()) << config.status();
  const v1::KubernetesConfig& kubernetes = config->launcher().kubernetes();
  EXPECT_EQ(kubernetes.namespace_(), "emoe");
  EXPECT_EQ(kubernetes.ranks_per_pod(), 1);
  EXPECT_EQ(kubernetes.gpu_resource(), "nvidia.com/gpu");
  EXPECT_EQ(kubernetes.grace_period().seconds(), 300);
  const auto lines =
      problems_of(parse_coordinator_config(
                      "launcher: {kubernetes: {ranks_per_pod: 0, grace_period: 1s, shm_size: \"\", "
                      "memory_per_rank: 1.5Gi, job_may_set: [user]}}",
                      "c.yaml", {})
                      .status());
  EXPECT_EQ(lines.size(), 5u) << joined(lines);
  EXPECT_PROBLEM(lines, "c.yaml:1: launcher.kubernetes.ranks_per_pod: must be at least 1");
  EXPECT_PROBLEM(lines, "c.yaml:1: launcher.kubernetes.grace_period: must be at least 5");
  EXPECT_PROBLEM(lines, "c.yaml:1: launcher.kubernetes.shm_size: ");
  EXPECT_PROBLEM(
      lines, "c.yaml:1: launcher.kubernetes.memory_per_rank: \"1.5Gi\" is no quantity of memory");
  EXPECT_PROBLEM(lines, "c.yaml:1: launcher.kubernetes.job_may_set[0]: unknown word \"user\"");
}

// A service whose jobs may set nothing says so; it must not get the default.
TEST(CoordinatorConfig, AnEmptyListOfWhatJobsMaySetIsMeantSo) {
  const auto config =
      parse_coordinator_config("launcher: {slurm: {job_may_set: []}}", "c.yaml", {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->launcher().slurm().job_may_set_size(), 0);
}

TEST(CoordinatorConfig, FromAFile) {
  testing::TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "c.yaml", "allowed_roots: [/data, /models]\n").ok());
  const auto config = load_coordinator_config(dir / "c.yaml", {});
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->allowed_roots_size(), 2);
  EXPECT_EQ(load_coordinator_config(dir / "none", {}).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_file_atomically(dir / "c.yaml", "<!DOCTYPE html>").ok());
  const Status page = load_coordinator_config(dir / "c.yaml", {}).status();
  EXPECT_EQ(page.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(page.message().find("is an HTML page"), std::string::npos) << page;
}

}  // namespace
}  // namespace emoe::config
