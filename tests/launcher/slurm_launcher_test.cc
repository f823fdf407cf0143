// The Slurm launcher against texts of Slurm's commands: no process is started and no time passes.
#include "launcher/slurm/slurm_launcher.h"

#include <csignal>
#include <filesystem>
#include <functional>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "launcher/slurm/batch_script.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_dir.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// What the commands answer, and which were called.
struct FakeSlurm {
  std::string listed;  // by squeue
  CommandResult sbatch{.out = "17\n"};
  CommandResult scancel;
  bool away = false;
  std::function<void()> during_sbatch = [] {};
  std::vector<std::string> calls;  // "squeue", "sbatch", "scancel 17"
  Command submitted;

  Result<CommandResult> operator()(const Command& command) {
    const std::string& program = command.argv[0];
    calls.push_back(program == "scancel"
                        ? absl::StrCat("scancel ", command.argv.size() > 2 ? "signal " : "",
                                       command.argv.back())
                        : program);
    if (program == "sbatch") {
      submitted = command;
      during_sbatch();
      return sbatch;
    }
    if (away) {
      return CommandResult{.exit = {1, 0},
                           .err = program + ": error: Unable to contact slurm controller\n"};
    }
    if (program == "squeue") return CommandResult{.out = listed};
    return scancel;
  }
};

class SlurmLauncherTest : public ::testing::Test {
 protected:
  LaunchRequest request() {
    LaunchRequest request;
    request.job_id = "job-1";
    request.attempt = 2;
    request.ranks = 2;
    request.threads_per_rank = 3;
    request.worker_argv = {"/bin/worker", "run", "a b; $(rm) \"'.yaml"};
    request.environment = {{"EMOE_ATTEMPT_TOKEN", "secret"}};
    request.attempt_dir = dir_.path();
    return request;
  }
  LaunchHandle handle() { return launcher_.handle_of("job-1", 2, dir_.path()); }
  Result<LaunchHandle> launch() { return launcher_.launch(request()); }
  // Asks after the pause, so that squeue is asked as well.
  Result<AttemptStatus> poll() {
    clock_.advance(5s);
    return launcher_.poll(handle());
  }
  AttemptPhase phase() {
    const auto status = poll();
    EXPECT_TRUE(status.ok()) << status.status();
    return status.ok() ? status->phase : AttemptPhase::unknown;
  }
  std::string line(const std::string& state, const std::string& more = "None|0|0|n1",
                   const std::string& id = "17") {
    return absl::StrCat(id, " |", state, " |", more, " |", nodes_, " |job-1.2 |job-1.2 |\n");
  }
  void take(const std::string& run) { std::filesystem::create_symlink(run, dir_ / "slurm_run"); }
  void leave_exit(int rank, int code, int signal = 0) {
    ASSERT_TRUE(write_rank_exit(AttemptFiles(dir_.path()), {rank, {code, signal}, 1, "last"}).ok());
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  FakeSlurm slurm_;
  int nodes_ = 1;  // that the job has, or wants
  SlurmLauncher launcher_{{.rank_guard_program = "/bin/emoe-supervise"},
                          clock_,
                          [this](const Command& command) { return slurm_(command); }};
};

TEST_F(SlurmLauncherTest, FromTheQueueToTheEnd) {
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(launch().ok());
  EXPECT_EQ(launcher_.poll(handle())->phase, AttemptPhase::queued);  // no answer is newer
  slurm_.listed = line("PENDING", "Resources|0|0|");
  const auto waiting = poll();
  EXPECT_EQ(waiting->phase, AttemptPhase::queued);
  EXPECT_EQ(waiting->waiting, "Slurm job 17 is pending: Resources");
  slurm_.listed = line("RUNNING");
  EXPECT_EQ(phase(), AttemptPhase::running);
  slurm_.listed = line("COMPLETING");
  EXPECT_EQ(phase(), AttemptPhase::running);
  slurm_.listed = line("COMPLETED");
  const auto end = poll();
  EXPECT_EQ(end->phase, AttemptPhase::ended);
  EXPECT_EQ(end->end.cause, EndCause::ranks);
  EXPECT_EQ(end->end.exit_code, 0);
}

TEST_F(SlurmLauncherTest, TellsWhatWaitsForNodesAndOfHowManyRanksOneNodeLessHasRoom) {
  ASSERT_TRUE(launch().ok());
  slurm_.listed = line("PENDING", "Resources|0|0|");
  EXPECT_TRUE(poll()->no_room);
  EXPECT_FALSE(poll()->room) << "of one node";
  nodes_ = 2;
  slurm_.listed = line("PENDING", "ReqNodeNotAvail,_UnavailableNodes:n2|0|0|");
  EXPECT_TRUE(poll()->no_room);
  EXPECT_EQ(poll()->room, 1);
  slurm_.listed = line("PENDING", "Priority|0|0|");
  EXPECT_FALSE(poll()->no_room);
  slurm_.listed = line("RUNNING");
  EXPECT_FALSE(poll()->no_room);
}

TEST_F(SlurmLauncherTest, TheCommandHasEachWordByItselfAndNoSecret) {
  LaunchRequest wanted = request();
  wanted.queue.partition = "gpu; true";
  wanted.queue.time_limit = 90min;
  wanted.queue.ranks_per_node = 1;
  wanted.queue.gpus_per_rank = 1;
  wanted.queue.extra_args = {"--mem=8G"};
  ASSERT_TRUE(launcher_.launch(wanted).ok());
  const auto& argv = slurm_.submitted.argv;
  for (const char* word :
       {"--job-name=job-1.2", "--comment=job-1.2", "--ntasks=2", "--nodes=2", "--ntasks-per-node=1",
        "--cpus-per-task=3", "--gpus-per-task=1", "--partition=gpu; true", "--time=0-01:30:00",
        "--signal=USR1@300", "--requeue", "--open-mode=append", "--mem=8G", "/bin/worker",
        "a b; $(rm) \"'.yaml"}) {
    EXPECT_THAT(argv, Contains(word));
  }
  EXPECT_THAT(argv, Not(Contains(HasSubstr("secret"))));
  EXPECT_EQ(slurm_.submitted.set_env.at("EMOE_ATTEMPT_TOKEN"), "secret");
  EXPECT_EQ(slurm_.submitted.set_env.at("OMP_NUM_THREADS"), "3");
  const auto script = read_file(dir_ / "slurm_job.sh");
  EXPECT_EQ(*script, batch_script());
  EXPECT_THAT(*script, Not(HasSubstr("worker")));
}

TEST_F(SlurmLauncherTest, OneSqueueAnswersForAll) {
  ASSERT_TRUE(launch().ok());
  slurm_.calls.clear();
  slurm_.listed = line("RUNNING");
  (void)poll();
  for (int i = 0; i < 20; ++i) (void)launcher_.poll(handle());
  (void)launcher_.poll(launcher_.handle_of("job-9", 1, "/nowhere"));
  EXPECT_THAT(slurm_.calls, ElementsAre("squeue"));
}

TEST_F(SlurmLauncherTest, WhatWasLaunchedIsNotLaunchedAgain) {
  ASSERT_TRUE(launch().ok());
  slurm_.calls.clear();
  EXPECT_TRUE(launch().ok());
  EXPECT_THAT(slurm_.calls, Not(Contains("sbatch")));
}

// Killed between sbatch and its commit, even before the number was written.
TEST_F(SlurmLauncherTest, AnotherCoordinatorFindsItByItsName) {
  ASSERT_TRUE(launch().ok());
  std::filesystem::remove(dir_ / "slurm_job");
  slurm_.listed = line("RUNNING");
  SlurmLauncher next({}, clock_, [this](const Command& command) { return slurm_(command); });
  EXPECT_EQ(next.poll(handle())->phase, AttemptPhase::running);
  EXPECT_TRUE(next.stop(handle(), StopMode::kill).ok());
  EXPECT_EQ(slurm_.calls.back(), "scancel 17");
}

TEST_F(SlurmLauncherTest, OfTwoSubmissionsOneRunsAndTheOtherIsCancelled) {
  ASSERT_TRUE(launch().ok());
  take("18.0");
  slurm_.listed = line("PENDING", "None|0|0|") + line("RUNNING", "None|0|0|n1", "18");
  EXPECT_EQ(phase(), AttemptPhase::running);
  EXPECT_EQ(slurm_.calls.back(), "scancel 17");
}

TEST_F(SlurmLauncherTest, AControllerThatIsAwayIsNoEnd) {
  ASSERT_TRUE(launch().ok());
  slurm_.listed = line("RUNNING");
  EXPECT_EQ(phase(), AttemptPhase::running);
  slurm_.away = true;
  EXPECT_EQ(phase(), AttemptPhase::unknown);
  EXPECT_EQ(launcher_.stop(handle(), StopMode::kill).code(), StatusCode::kUnavailable);
  slurm_.away = false;
  EXPECT_EQ(phase(), AttemptPhase::running);
}

TEST_F(SlurmLauncherTest, NothingIsLaunchedWhileNobodyKnowsWhetherItWas) {
  slurm_.away = true;
  EXPECT_EQ(poll().status().code(), StatusCode::kUnavailable);
}

TEST_F(SlurmLauncherTest, AnEndThatSlurmHasForgottenIsInTheFiles) {
  ASSERT_TRUE(launch().ok());
  take("17.0");
  ASSERT_TRUE(write_file_atomically(dir_ / "slurm_exit", "0\n").ok());
  const auto good = poll();
  EXPECT_EQ(good->phase, AttemptPhase::ended);
  EXPECT_EQ(good->end.exit_code, 0);
  EXPECT_EQ(good->end.signal, 0);
  std::filesystem::remove(dir_ / "slurm_exit");
  const auto lost = poll();
  EXPECT_EQ(lost->end.signal, SIGKILL);
  EXPECT_THAT(lost->end.detail, HasSubstr("does not know its job 17"));
  leave_exit(1, 76);
  EXPECT_EQ(poll()->end.exit_code, 76);
}

struct Ending {
  const char* line;
  EndCause cause;
  int code = 0;
  int signal = 0;
  bool memory = false;
};

TEST_F(SlurmLauncherTest, WhatSlurmSaysOfAnEnd) {
  ASSERT_TRUE(launch().ok());
  take("17.0");
  for (const Ending& ending :
       {Ending{"FAILED|NonZeroExitCode|0|1792|n1", EndCause::ranks, 7},
        Ending{"FAILED|JobLaunchFailure|0|9|n1", EndCause::ranks, 0, SIGKILL},
        Ending{"FAILED|NonZeroExitCode|0|35072|n1", EndCause::ranks, 0, SIGKILL},  // 137
        Ending{"CANCELLED|None|0|15|n1", EndCause::cancelled, 0, SIGTERM},
        Ending{"PREEMPTED|None|0|15|n1", EndCause::preempted, 0, SIGTERM},
        Ending{"TIMEOUT|TimeLimit|0|9|n1", EndCause::time_limit, 0, SIGKILL},
        Ending{"NODE_FAIL|NodeDown|0|0|n[1-2]", EndCause::node_lost},
        Ending{"OUT_OF_MEMORY|OutOfMemory|0|125|n1", EndCause::ranks, 0, 125, true}}) {
    const std::string text = ending.line;
    const size_t bar = text.find('|');
    slurm_.listed = line(text.substr(0, bar), text.substr(bar + 1));
    const auto status = poll();
    ASSERT_EQ(status->phase, AttemptPhase::ended) << text;
    EXPECT_EQ(status->end.cause, ending.cause) << text;
    EXPECT_EQ(status->end.exit_code, ending.code) << text;
    EXPECT_EQ(status->end.signal, ending.signal) << text;
    EXPECT_EQ(status->end.out_of_memory, ending.memory) << text;
  }
}

TEST_F(SlurmLauncherTest, RanksThatCheckpointedBeforeTheLimitWerePreempted) {
  ASSERT_TRUE(launch().ok());
  take("17.0");
  slurm_.listed = line("TIMEOUT", "TimeLimit|0|0|n1");
  EXPECT_EQ(poll()->end.cause, EndCause::time_limit);
  leave_exit(0, 75);
  leave_exit(1, 75);
  EXPECT_EQ(poll()->end.cause, EndCause::preempted);
}

TEST_F(SlurmLauncherTest, AJobPutBackIntoTheQueueIsCancelledAndHasEnded) {
  ASSERT_TRUE(launch().ok());
  take("17.0");
  leave_exit(0, 75);
  leave_exit(1, 75);
  slurm_.listed = line("PENDING", "BeginTime|1|0|");
  EXPECT_EQ(phase(), AttemptPhase::running);
  EXPECT_EQ(slurm_.calls.back(), "scancel 17");
  slurm_.listed = line("CANCELLED", "BeginTime|1|0|");
  const auto end = poll();
  EXPECT_EQ(end->phase, AttemptPhase::ended);
  EXPECT_EQ(end->end.cause, EndCause::preempted);
  EXPECT_THAT(end->end.detail, HasSubstr("put back into Slurm's queue"));
}

TEST_F(SlurmLauncherTest, PutBackBecauseANodeWasLost) {
  ASSERT_TRUE(launch().ok());
  take("17.0");
  leave_exit(0, 71);  // of the other nothing is left
  slurm_.listed = line("CANCELLED", "BeginTime|1|0|");
  EXPECT_EQ(poll()->end.cause, EndCause::node_lost);
}

TEST_F(SlurmLauncherTest, StopsWhatRunsBySignalAndWhatWaitsAtOnce) {
  ASSERT_TRUE(launch().ok());
  slurm_.listed = line("PENDING", "Resources|0|0|");
  clock_.advance(5s);
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(slurm_.calls.back(), "scancel 17");
  slurm_.listed = line("RUNNING");
  clock_.advance(5s);
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(slurm_.calls.back(), "scancel signal 17");
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::kill).ok());
  EXPECT_EQ(slurm_.calls.back(), "scancel 17");
  const size_t before = slurm_.calls.size();
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::kill).ok());  // it takes its time
  EXPECT_EQ(slurm_.calls.size(), before);
  slurm_.listed = line("CANCELLED");
  clock_.advance(5s);
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::kill).ok());
  EXPECT_EQ(slurm_.calls.back(), "squeue");
}

TEST_F(SlurmLauncherTest, ARefusalIsSlurmsOwnWords) {
  slurm_.sbatch = {.exit = {1, 0},
                   .err =
                       "sbatch: error: invalid partition specified: nope\n"
                       "sbatch: error: Batch job submission failed: Invalid partition name "
                       "specified\n"};
  EXPECT_EQ(launch().status(),
            absl::FailedPreconditionError("sbatch: invalid partition specified: nope; Batch job "
                                          "submission failed: Invalid partition name specified"));
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
  slurm_.sbatch.err =
      "sbatch: error: Batch job submission failed: Job violates accounting/QOS "
      "policy (job submit limit, user's size and/or time limits)\n";
  EXPECT_EQ(launch().status().code(), StatusCode::kResourceExhausted);
  slurm_.sbatch.err = "sbatch: error: QOSMaxWallDurationPerJobLimit\n" + slurm_.sbatch.err;
  EXPECT_EQ(launch().status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(SlurmLauncherTest, AnSbatchThatHangsStartsNothingLater) {
  slurm_.sbatch = {.err = "", .timed_out = true};
  EXPECT_EQ(launch().status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
  // The controller had heard it all the same.
  slurm_.listed = line("PENDING", "None|0|0|");
  EXPECT_EQ(poll().status().code(), StatusCode::kNotFound);
  EXPECT_EQ(slurm_.calls.back(), "scancel 17");
}

TEST_F(SlurmLauncherTest, AnSbatchThatHangsAlthoughItsJobRuns) {
  slurm_.sbatch = {.err = "", .timed_out = true};
  slurm_.during_sbatch = [this] { take("17.0"); };
  EXPECT_TRUE(launch().ok());
  slurm_.listed = line("RUNNING");
  EXPECT_EQ(phase(), AttemptPhase::running);
}

TEST_F(SlurmLauncherTest, TheNumberStandsAmongWhatASitePrints) {
  slurm_.sbatch.out = "Your project has 12 hours left\n4711;cluster\n";
  ASSERT_TRUE(launch().ok());
  EXPECT_EQ(*read_file(dir_ / "slurm_job"), "4711\n");
}

TEST_F(SlurmLauncherTest, ForeignHandles) {
  for (const char* text : {"local:/x", "slurm:", "slurm:x"}) {
    EXPECT_EQ(launcher_.poll({text}).status().code(), StatusCode::kNotFound) << text;
  }
}

}  // namespace
}  // namespace emoe::launcher
