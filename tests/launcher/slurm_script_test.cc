// The batch script by a real bash, and the launcher with programs in place of Slurm's.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/file.h"
#include "launcher/slurm/batch_script.h"
#include "launcher/slurm/slurm_launcher.h"
#include "tests/support/temp_dir.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

class SlurmScriptTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(attempt());
    ASSERT_TRUE(write_file_atomically(dir_ / "slurm_job.sh", batch_script()).ok());
  }
  [[nodiscard]] std::filesystem::path attempt() const { return dir_ / "a folder"; }
  void make_program(const std::string& name, const std::string& body) {
    const std::filesystem::path file = dir_ / "bin" / name;
    std::filesystem::create_directories(file.parent_path());
    ASSERT_TRUE(write_file_atomically(file, "#!/bin/bash\n" + body + "\n").ok());
    ASSERT_EQ(::chmod(file.c_str(), 0755), 0);
  }
  // One start of the Slurm job `number`, `restarts` of which went before.
  CommandResult start(const std::string& number, const std::string& restarts = "") {
    Command command{.argv = {"bash", (dir_ / "slurm_job.sh").string(), "worker", "a b; $x"},
                    .set_env = {{"EMOE_ATTEMPT_DIR", attempt().string()},
                                {"SLURM_JOB_ID", number},
                                {"SLURM_CPUS_PER_TASK", "2"},
                                {"PATH", (dir_ / "bin").string() + ":/usr/bin:/bin"}}};
    if (!restarts.empty()) command.set_env["SLURM_RESTART_COUNT"] = restarts;
    const auto result = run_command(command);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : CommandResult{};
  }
  LaunchRequest request() {
    LaunchRequest request;
    request.job_id = "job-1";
    request.worker_argv = {"/bin/true"};
    request.attempt_dir = attempt();
    return request;
  }
  SlurmLauncher::Config config() {
    return {.command_limit = 300ms, .bin_dir = (dir_ / "bin").string()};
  }

  testing::TempDir dir_;
  SystemClock clock_;
};

TEST_F(SlurmScriptTest, StartsTheRanksOnceAndLeavesTheirCode) {
  make_program("srun", R"(printf '<%s>' "$@"; exit 65)");
  const CommandResult first = start("17");
  EXPECT_EQ(first.exit.code, 65);
  EXPECT_EQ(first.out,
            "<--mpi=pmix><--kill-on-bad-exit=1><--wait=60><--cpus-per-task=2><worker><a b; $x>");
  EXPECT_EQ(*read_file(attempt() / "slurm_exit"), "65\n");
  EXPECT_EQ(SlurmAttempt(attempt()).taken_by(), "17");
  for (const auto& [number, restarts] : {std::pair("17", "1"), std::pair("18", "")}) {
    const CommandResult again = start(number, restarts);
    EXPECT_EQ(again.exit.code, kNotOurs);
    EXPECT_THAT(again.out, HasSubstr("the attempt belongs to 17.0"));
  }
}

TEST_F(SlurmScriptTest, NeverStartsWhatWasWithdrawn) {
  make_program("srun", "exit 0");
  const SlurmAttempt files(attempt());
  EXPECT_EQ(*files.claim().withdraw(), true);
  EXPECT_EQ(*files.claim().withdraw(), true);
  EXPECT_EQ(start("17").exit.code, kNotOurs);
  EXPECT_TRUE(files.claim().withdrawn());
}

TEST_F(SlurmScriptTest, WhatRunsCannotBeWithdrawn) {
  make_program("srun", "exit 0");
  EXPECT_EQ(start("17").exit.code, 0);
  EXPECT_EQ(*SlurmAttempt(attempt()).claim().withdraw(), false);
}

// Slurm sends it to all processes; the ranks checkpoint, which takes a moment.
TEST_F(SlurmScriptTest, OutlivesTheSigtermThatItsRanksHear) {
  make_program("srun", "trap 'sleep 0.2; exit 75' TERM; kill -TERM $PPID; kill -TERM $$; sleep 60");
  EXPECT_EQ(start("17").exit.code, 75);
  EXPECT_EQ(*read_file(attempt() / "slurm_exit"), "75\n");
}

TEST_F(SlurmScriptTest, AnSbatchThatIsNotThereRefusesOrHangs) {
  SlurmLauncher launcher(config(), clock_);
  const auto missing = launcher.launch(request());
  EXPECT_EQ(missing.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("slurm-client"));
  make_program("sbatch",
               "echo 'sbatch: error: Batch job submission failed: Requested time limit is invalid' "
               ">&2; exit 1");
  const auto refused = launcher.launch(request());
  EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("time limit is invalid"));
  make_program("sbatch", "sleep 1000");
  EXPECT_EQ(launcher.launch(request()).status().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(SlurmAttempt(attempt()).claim().withdrawn());
}

}  // namespace
}  // namespace emoe::launcher
