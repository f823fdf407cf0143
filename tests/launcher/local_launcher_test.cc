// The local launcher against the real mpirun and real processes, some of which are killed.
#include "launcher/local/local_launcher.h"

#include <csignal>
#include <map>
#include <sstream>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/launcher/local_launcher_fixture.h"

namespace emoe::launcher {
namespace {

using ::testing::HasSubstr;
TEST_F(LocalLauncherTest, AnAttemptThatSucceeds) {
  launch({"exit", "0", "0"});
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.exit_code, 0);
  EXPECT_EQ(end.signal, 0);
  EXPECT_FALSE(end.rank);
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::kill).ok());  // of an ended attempt
}

TEST_F(LocalLauncherTest, TheRankThatFailedAndItsCode) {
  launch({"exit", "0", "76"});
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.exit_code, 76);
  EXPECT_EQ(end.signal, 0);
  EXPECT_EQ(end.rank, 1);
}

TEST_F(LocalLauncherTest, ASignalOfOneRankEndsTheOthers) {
  launch({"signal", "1", std::to_string(SIGABRT)});
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.signal, SIGABRT);
  EXPECT_EQ(end.exit_code, 0);
  EXPECT_EQ(end.rank, 1);
}

TEST_F(LocalLauncherTest, ARankKilledInsideMpi) {
  launch({"mpi"});
  EXPECT_TRUE(std::filesystem::exists(AttemptFiles(dir_.path()).mpi_memory_dir()));
  std::ofstream(dir_ / "go") << "on\n";
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.signal, SIGKILL) << log();
  EXPECT_EQ(end.rank, 1);
  EXPECT_FALSE(end.out_of_memory);
}

TEST_F(LocalLauncherTest, OutputIsKeptInWholeTaggedLinesAndExplainsTheEnd) {
  launch({"print"});
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.exit_code, 65);
  EXPECT_THAT(end.detail, HasSubstr("no newline at the end"));
  std::map<std::string, int> lines;
  std::istringstream text(log());
  for (std::string line; std::getline(text, line);) ++lines[line];
  EXPECT_EQ(lines["[1] " + std::string(700, 'b')], 200);
  EXPECT_EQ(lines["[1] no newline at the end"], 1);
}

TEST_F(LocalLauncherTest, RanksSeeTheirEnvironment) {
  LaunchRequest wanted = request({"environment"}, 1);
  wanted.threads_per_rank = 3;
  wanted.environment = {{"EMOE_TEST", "a b; $HOME"}};
  ASSERT_TRUE(launcher_.launch(wanted).ok());
  EXPECT_EQ(wait_for_end().exit_code, 0);
  EXPECT_THAT(log(), HasSubstr("[0] EMOE_JOB_ID=job-1\n[0] EMOE_ATTEMPT=1\n"
                               "[0] OMP_NUM_THREADS=3\n[0] EMOE_TEST=a b; $HOME\n"));
}

TEST_F(LocalLauncherTest, TellsTheEndOfTheLog) {
  EXPECT_EQ(launcher_.log(handle(), 100)->text, "");
  std::ofstream(dir_ / "output.log") << "first line\nbad \xff byte\nlast\n";
  EXPECT_EQ(launcher_.log(handle(), 100)->text, "first line\nbad \xef\xbf\xbd byte\nlast\n");
  const auto tail = launcher_.log(handle(), 8);
  EXPECT_EQ(tail->text, "last\n");
  EXPECT_TRUE(tail->truncated);
  EXPECT_EQ(launcher_.log({"slurm:7"}, 8).status().code(), StatusCode::kNotFound);
}

TEST_F(LocalLauncherTest, GracefulStopReachesEveryRank) {
  launch_and_wait_until_ready("serve");
  EXPECT_EQ(launcher_.poll(handle())->phase, AttemptPhase::running);
  ASSERT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.exit_code, 75);
  EXPECT_EQ(end.signal, 0);
}

TEST_F(LocalLauncherTest, GracefulStopIsNotLostWhileRanksStillStart) {
  launch({"serve"});
  ASSERT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(wait_for_end().exit_code, 75);
}

TEST_F(LocalLauncherTest, SigtermToTheSupervisorIsAPreemption) {
  launch_and_wait_until_ready("serve");
  ASSERT_EQ(::kill(supervisor().pid, SIGTERM), 0);
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.exit_code, 75);
  EXPECT_EQ(end.signal, 0);
}

TEST_F(LocalLauncherTest, SigtermToEveryProcessIsAPreemption) {  // as a service manager stops
  launch_and_wait_until_ready("serve_slowly");
  signal_all(living(), SIGTERM);
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.exit_code, 75);
  EXPECT_EQ(end.signal, 0);
}

TEST_F(LocalLauncherTest, GracefulStopReachesRanksThatPrintWithoutPause) {
  launch({"chatter"});
  ASSERT_NO_FATAL_FAILURE(wait_until_ready());
  ASSERT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(wait_for_end().exit_code, 75);
}

TEST_F(LocalLauncherTest, ARankEndsAlthoughWhatItLeftGoesOnPrinting) {
  launch({"stray_chatter"});
  EXPECT_EQ(wait_for_end().exit_code, 0);
}

TEST_F(LocalLauncherTest, TheLogEndsAtItsLimitAndTheLastLinesAreKept) {
  LocalLauncher::Config limited = config();
  limited.log_limit_bytes = 20'000;
  LocalLauncher launcher(limited);
  ASSERT_TRUE(launcher.launch(request({"print"})).ok());
  const AttemptEnd end = wait_for_end(launcher);
  EXPECT_EQ(end.exit_code, 65);
  EXPECT_THAT(end.detail, HasSubstr("no newline at the end"));
  size_t printed = 0;
  size_t longest = 0;
  int cuts = 0;
  std::istringstream text(log());
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("[0] [cut]") || line.starts_with("[1] [cut]")) {
      ++cuts;
    } else if (line.starts_with("[")) {
      printed += line.size() + 1;
      longest = std::max(longest, line.size() + 1);
    }
  }
  EXPECT_EQ(cuts, 2);
  EXPECT_LE(printed, 20'000 + longest);  // of two ranks one may write what the other just looked at
  EXPECT_GT(printed, 18'000u);
}

TEST_F(LocalLauncherTest, KillEndsRanksThatIgnoreEverything) {
  launch_and_wait_until_ready("stubborn");
  ASSERT_TRUE(launcher_.stop(handle(), StopMode::kill).ok());
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_EQ(end.detail, "killed on request");
}

TEST_F(LocalLauncherTest, ProcessesARankLeavesBehindAreRemoved) {
  launch({"stray"});
  EXPECT_EQ(wait_for_end().exit_code, 0);
}

TEST_F(LocalLauncherTest, ASupervisorKilledTakesAllWithIt) {
  launch_and_wait_until_ready("stubborn");
  ASSERT_EQ(::kill(supervisor().pid, SIGKILL), 0);
  EXPECT_EQ(wait_for_end().signal, SIGKILL);
  EXPECT_EQ(launcher_.poll(handle())->phase, AttemptPhase::ended);
}

TEST_F(LocalLauncherTest, MpirunKilledTakesTheRanksWithIt) {
  launch_and_wait_until_ready("stubborn");
  ASSERT_NE(mpirun(), 0);
  ASSERT_EQ(::kill(mpirun(), SIGKILL), 0);
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_FALSE(end.rank);
  EXPECT_EQ(end.process, "mpirun");
  EXPECT_EQ(end.detail, "") << "what the ranks printed does not explain it";
}

TEST_F(LocalLauncherTest, AGuardKilledIsNamedWithoutTheRanksOutput) {
  launch_and_wait_until_ready("stubborn");
  pid_t guard = 0;
  const std::vector<ProcessId> watched = descendants(mpirun()).value();
  for (const ProcessId& process : watched) {
    const auto below = descendants(process.pid).value();
    if (below.size() == 1 && absl::StrCat(below[0].pid, "\n") == *read_file(dir_ / "ready.1")) {
      guard = process.pid;
    }
  }
  ASSERT_NE(guard, 0);
  ASSERT_EQ(::kill(guard, SIGKILL), 0);
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_EQ(end.process, "a process that mpirun watched");
  EXPECT_THAT(end.detail, HasSubstr("rank 1")) << "mpirun says which";
  EXPECT_THAT(end.detail, ::testing::Not(HasSubstr("[0] ")));
}

TEST_F(LocalLauncherTest, OutlivesTheCoordinatorAndIsFoundAgain) {
  // The coordinator is a child that launches and is killed.
  const pid_t coordinator = ::fork();
  if (coordinator == 0) {
    LocalLauncher launcher(config());
    (void)launcher.launch(request({"serve"}));
    for (;;) ::pause();
  }
  wait_until_ready();
  ::kill(coordinator, SIGKILL);
  ::waitpid(coordinator, nullptr, 0);
  ASSERT_FALSE(HasFatalFailure());

  LocalLauncher again(config());
  EXPECT_EQ(again.poll(handle())->phase, AttemptPhase::running);
  const auto relaunched = again.launch(request({"serve"}));
  ASSERT_TRUE(relaunched.ok());
  EXPECT_EQ(*relaunched, handle());
  ASSERT_TRUE(again.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(wait_for_end(again).exit_code, 75);
  // Each rank wrote its pid once: nothing ran twice.
  EXPECT_THAT(read_file(dir_ / "ready.0").value(), ::testing::MatchesRegex("[0-9]+\n"));
}

TEST_F(LocalLauncherTest, RacingLaunchesStartItOnce) {
  std::vector<pid_t> coordinators;
  for (int i = 0; i < 4; ++i) {
    coordinators.push_back(::fork());
    if (coordinators.back() != 0) continue;
    const auto launched = LocalLauncher(config()).launch(request({"serve"}));
    ::_exit(launched.ok() && *launched == handle() ? 0 : 1);
  }
  for (const pid_t coordinator : coordinators) {
    EXPECT_EQ(wait_child(coordinator)->code, 0);
  }
  // Both: mpirun would end one that still starts as soon as the other has ended.
  ASSERT_NO_FATAL_FAILURE(wait_until_ready());
  ASSERT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(wait_for_end().exit_code, 75);
  EXPECT_THAT(read_file(dir_ / "ready.0").value(), ::testing::MatchesRegex("[0-9]+\n"));
  EXPECT_TRUE(launcher_.launch(request({"serve"})).ok());  // ended stays ended
  EXPECT_EQ(launcher_.poll(handle())->phase, AttemptPhase::ended);
}

TEST_F(LocalLauncherTest, WhatIsMissingIsNamed) {
  LocalLauncher without_mpirun({.mpirun = "no-such-mpirun", .supervisor_program = EMOE_SUPERVISE});
  const auto status = without_mpirun.launch(request({"exit", "0", "0"})).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("openmpi-bin"));

  LaunchRequest no_worker = request({});
  no_worker.worker_argv = {"/no/such/emoe-worker"};
  EXPECT_EQ(launcher_.launch(no_worker).status().code(), StatusCode::kFailedPrecondition);
  LaunchRequest no_folder = request({"exit", "0", "0"});
  no_folder.attempt_dir = dir_ / "missing";
  EXPECT_EQ(launcher_.launch(no_folder).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(launcher_.poll(handle()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(launcher_.stop({"fake:x"}, StopMode::kill).code(), StatusCode::kNotFound);
}

TEST_F(LocalLauncherTest, AFolderBelongsToOneAttempt) {
  launch({"exit", "0", "0"});
  wait_for_end();
  LaunchRequest other = request({"exit", "0", "0"});
  other.attempt = 2;
  EXPECT_EQ(launcher_.launch(other).status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(LocalLauncherTest, AnMpirunThatFailsByItselfIsExplainedByItsWords) {
  LocalLauncher launcher(
      {.mpirun_args = {"--no-such-option"}, .supervisor_program = EMOE_SUPERVISE});
  ASSERT_TRUE(launcher.launch(request({"exit", "0", "0"})).ok());
  const AttemptEnd end = wait_for_end(launcher);
  EXPECT_NE(end.exit_code, 0);
  EXPECT_FALSE(end.rank);
  EXPECT_THAT(end.detail, HasSubstr("no-such-option"));
}

}  // namespace
}  // namespace emoe::launcher
