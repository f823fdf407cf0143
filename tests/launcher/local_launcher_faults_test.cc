// What the local launcher says and does when the machine, its files or its helpers fail it.
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/launcher/local_launcher_fixture.h"

namespace emoe::launcher {
namespace {

using ::testing::HasSubstr;

// A variable of this process's environment, as long as the object lives.
class Variable {
 public:
  Variable(std::string name, const std::string& value) : name_(std::move(name)) {
    if (const char* before = std::getenv(name_.c_str())) before_ = before;
    ::setenv(name_.c_str(), value.c_str(), 1);
  }
  ~Variable() {
    before_ ? ::setenv(name_.c_str(), before_->c_str(), 1) : ::unsetenv(name_.c_str());
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  std::string name_;
  std::optional<std::string> before_;
};

// As long as it lives, neither this process nor what it starts can write a byte into a file.
class FullDisk {
 public:
  FullDisk() : before_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &limit_);
    const rlimit none{0, limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &none);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &limit_);
    ::signal(SIGXFSZ, before_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  void (*before_)(int);
  rlimit limit_{};
};

class LocalLauncherFaults : public LocalLauncherTest {
 protected:
  AttemptFiles files() const { return AttemptFiles(dir_.path()); }

  // An attempt that was recorded, and no more.
  void record() const { ASSERT_TRUE(write_launch(files(), {"job-1", 1, 2, {}}).ok()); }

  // A program for Config::supervisor_program that guards ranks as the real one does and starts
  // attempts as `script` says ($SUPERVISE: the real one, "$@": its arguments).
  std::string supervise_by(const std::string& script) const {
    const auto path = dir_ / "supervise.sh";
    std::ofstream(path) << "#!/bin/sh\nSUPERVISE='" << EMOE_SUPERVISE << "'\n"
                        << "[ $1 = rank ] && exec \"$SUPERVISE\" \"$@\"\n"
                        << script << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
};

TEST_F(LocalLauncherFaults, AFolderOfPathThatCannotBeLookedAtIsPassedOver) {
  std::filesystem::create_symlink("loop", dir_ / "loop");
  const Variable path("PATH", dir_ / "loop");
  const auto status = launcher_.launch(request({"exit", "0", "0"})).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition) << status;
}

TEST_F(LocalLauncherFaults, AMissingTemporaryFolderIsNoObstacle) {
  const Variable tmpdir("TMPDIR", dir_ / "missing");
  launch({"exit", "0", "0"});
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.exit_code, 0) << log();
}

TEST_F(LocalLauncherFaults, RunningUntilTheSupervisorIsGone) {
  record();
  ASSERT_TRUE(write_end(files(), {.exit_code = 76}).ok());
  {
    const auto lock = FileLock::acquire(files().supervisor_lock());
    ASSERT_TRUE(lock.ok()) << lock.status();
    EXPECT_EQ(launcher_.poll(handle())->phase, AttemptPhase::running);
  }
  EXPECT_EQ(launcher_.poll(handle())->phase, AttemptPhase::ended);
  EXPECT_EQ(launcher_.poll(handle())->end.exit_code, 76);
}

TEST_F(LocalLauncherFaults, AKnownAttemptIsAnsweredWithoutItsPrograms) {
  launch_and_wait_until_ready("serve");
  LocalLauncher without({.mpirun = "no-such-mpirun", .supervisor_program = "/no/emoe-supervise"});
  LaunchRequest wanted = request({"serve"});
  wanted.worker_argv = {"/no/such/emoe-worker"};
  const auto launched = without.launch(wanted);
  ASSERT_TRUE(launched.ok()) << launched.status();
  EXPECT_EQ(*launched, handle());
  ASSERT_TRUE(without.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(wait_for_end(without).exit_code, 75);
}

TEST_F(LocalLauncherFaults, AStarterKilledAfterTheStartIsNoFailure) {
  LocalLauncher launcher({.supervisor_program = supervise_by("\"$SUPERVISE\" \"$@\"; kill -9 $$")});
  const auto launched = launcher.launch(request({"serve"}));
  ASSERT_TRUE(launched.ok()) << launched.status();
  ASSERT_TRUE(launcher.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(wait_for_end(launcher).exit_code, 75);
}

TEST_F(LocalLauncherFaults, AStarterKilledBeforeTheStartIsOne) {
  LocalLauncher launcher({.supervisor_program = supervise_by("kill -9 $$")});
  EXPECT_EQ(launcher.launch(request({"serve"})).status().code(), StatusCode::kInternal);
  EXPECT_TRUE(living().empty());
  EXPECT_EQ(launcher.poll(handle()).status().code(), StatusCode::kNotFound);
}

// The starter is killed as soon as the supervisor has made `file`; whatever was reached by then, a
// coordinator that launches again finds the attempt or starts it, and it runs once.
class StarterKilled : public LocalLauncherFaults,
                      public ::testing::WithParamInterface<const char*> {};

TEST_P(StarterKilled, TheAttemptRunsOnce) {
  const std::string script = "\"$SUPERVISE\" \"$@\" &\nuntil [ -e '" +
                             (dir_ / GetParam()).string() + "' ]; do :; done\n" +
                             "kill -9 $! || :";  // it may have done its work and be gone
  LocalLauncher launcher({.supervisor_program = supervise_by(script)});
  (void)launcher.launch(request({"serve"}));
  const auto launched = launcher_.launch(request({"serve"}));
  ASSERT_TRUE(launched.ok()) << launched.status();
  ASSERT_NO_FATAL_FAILURE(wait_until_ready());
  ASSERT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(wait_for_end().exit_code, 75) << log();
  EXPECT_THAT(read_file(dir_ / "ready.0").value(), ::testing::MatchesRegex("[0-9]+\n"));
}

INSTANTIATE_TEST_SUITE_P(At, StarterKilled,
                         ::testing::Values("supervisor.lock", "supervisor.json"));

TEST_F(LocalLauncherFaults, AnAttemptWhoseRecordIsGoneIsRemovedBeforeItIsForgotten) {
  launch_and_wait_until_ready("stubborn");
  std::filesystem::remove(files().launch());
  std::filesystem::remove(files().supervisor());
  const auto launched = launcher_.launch(request({"stubborn"}));  // starts nothing
  ASSERT_TRUE(launched.ok()) << launched.status();
  EXPECT_FALSE(std::filesystem::exists(files().launch()));
  EXPECT_EQ(launcher_.poll(handle())->phase, AttemptPhase::running);
  EXPECT_TRUE(eventually([&] { return !launcher_.poll(handle()).ok(); }));
  EXPECT_EQ(launcher_.poll(handle()).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(living().empty());
  EXPECT_FALSE(std::filesystem::exists(files().mpi_session_dir()));
  EXPECT_EQ(launcher_.stop(handle(), StopMode::kill).code(), StatusCode::kNotFound);
}

TEST_F(LocalLauncherFaults, AKillIsNotOvertakenByTheEndsItCauses) {
  launch_and_wait_until_ready("stubborn");
  const ProcessId process = supervisor();
  // A busy machine: the supervisor comes to nothing until all of them are dead.
  ASSERT_EQ(::kill(process.pid, SIGSTOP), 0);
  const std::string stat = "/proc/" + std::to_string(process.pid) + "/stat";
  ASSERT_TRUE(
      eventually([&] { return read_file(stat).value_or("").find(") T ") != std::string::npos; }));
  ASSERT_EQ(::kill(process.pid, kill_signal()), 0);
  signal_all(living(process.pid), SIGKILL);
  ASSERT_TRUE(eventually([&] { return living(process.pid).empty(); }));
  ASSERT_EQ(::kill(process.pid, SIGCONT), 0);
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_EQ(end.detail, "killed on request");
}

TEST_F(LocalLauncherFaults, WhoAsksWhileItIsLaunchedDoesNotDisturb) {
  std::jthread asking([this](const std::stop_token& stop) {
    for (; !stop.stop_requested(); std::this_thread::sleep_for(1ms)) {
      (void)launcher_.poll(handle());
    }
  });
  const auto launched = launcher_.launch(request({"serve"}));
  asking = {};
  ASSERT_TRUE(launched.ok()) << launched.status();
  ASSERT_NO_FATAL_FAILURE(wait_until_ready());
  ASSERT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_EQ(wait_for_end().exit_code, 75);
}

TEST_F(LocalLauncherFaults, AnAttemptWhoseRecordIsGoneCanBeStopped) {
  launch_and_wait_until_ready("stubborn");
  std::filesystem::remove(files().launch());
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_TRUE(eventually([&] { return living().empty(); }));
  EXPECT_EQ(launcher_.poll(handle()).status().code(), StatusCode::kNotFound);
}

TEST_F(LocalLauncherFaults, TheEndWaitsUntilItCanBeWritten) {
  launch_and_wait_until_ready("serve");
  const pid_t supervisor_pid = supervisor().pid;
  std::filesystem::create_directory(files().end());  // no file takes this name
  ASSERT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  ASSERT_TRUE(eventually([&] { return living(supervisor_pid).empty(); }));
  ASSERT_TRUE(eventually([&] { return log().find("emoe-supervise: ") != std::string::npos; }))
      << "the supervisor says that it could not write it";
  EXPECT_EQ(launcher_.poll(handle())->phase, AttemptPhase::running);
  std::filesystem::remove(files().end());
  EXPECT_EQ(wait_for_end().exit_code, 75);
}

TEST_F(LocalLauncherFaults, ASupervisorWhoseFolderIsGoneDoesNotStay) {
  launch_and_wait_until_ready("serve");
  const ProcessId process = supervisor();
  ASSERT_TRUE(eventually([&] {  // a guard may just be writing rank_N.start
    std::error_code error;
    std::filesystem::remove_all(dir_.path(), error);
    return !std::filesystem::exists(dir_.path(), error);
  }));
  ASSERT_EQ(::kill(process.pid, kill_signal()), 0);
  EXPECT_TRUE(eventually([&] { return !is_alive(process); }));
}

TEST_F(LocalLauncherFaults, ARankWhoseRecordCannotBeWrittenIsJudgedByMpirun) {
  std::filesystem::create_directory(files().rank_exit(1));
  launch({"signal", "1", std::to_string(SIGKILL)});
  const AttemptEnd end = wait_for_end();
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_EQ(end.exit_code, 0);
}

TEST_F(LocalLauncherFaults, AFullDiskAtTheLaunchIsNoBusyEngine) {
  Status status;
  {
    const FullDisk full;
    status = launcher_.launch(request({"exit", "0", "0"})).status();
  }
  EXPECT_EQ(status.code(), StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("launch.json"));
}

TEST_F(LocalLauncherFaults, AFullDiskAtTheSupervisorsStartIsNoBusyEngine) {
  record();
  Status status;
  {
    const FullDisk full;
    status = launcher_.launch(request({"exit", "0", "0"})).status();
  }
  EXPECT_EQ(status.code(), StatusCode::kDataLoss) << status;
  EXPECT_TRUE(living().empty());
  EXPECT_EQ(launcher_.poll(handle()).status().code(), StatusCode::kNotFound);
  launch({"exit", "0", "0"});
  EXPECT_EQ(wait_for_end().exit_code, 0);
}

TEST_F(LocalLauncherFaults, WithoutDescriptorsNothingIsSaidToHaveEnded) {
  launch_and_wait_until_ready("serve");
  ASSERT_EQ(::kill(supervisor().pid, SIGKILL), 0);
  ASSERT_TRUE(eventually([&] { return living().empty(); }));
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{3, limit.rlim_max};  // the standard streams and nothing more
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto polled = launcher_.poll(handle());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_FALSE(polled.ok());
  EXPECT_NE(polled.status().code(), StatusCode::kNotFound);
  EXPECT_EQ(wait_for_end().signal, SIGKILL);
}

TEST_F(LocalLauncherFaults, StopLeavesAProcessOfAnotherBootAlone) {
  record();
  const auto stranger = spawn({.argv = {"sleep", "60"}});
  ASSERT_TRUE(stranger.ok()) << stranger.status();
  std::ofstream(files().supervisor())
      << "{\"pid\": " << stranger->pid << ", \"start_ticks\": " << stranger->start_ticks
      << ", \"boot_id\": \"0e0c1a6e-0000-4000-8000-000000000000\"}";
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::graceful).ok());
  EXPECT_TRUE(launcher_.stop(handle(), StopMode::kill).ok());
  // Of several signals the lowest is delivered first: it ends of this one only if it got no other.
  ::kill(stranger->pid, SIGRTMAX);
  EXPECT_EQ(wait_child(stranger->pid)->signal, SIGRTMAX);
}

}  // namespace
}  // namespace emoe::launcher
