#pragma once

#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/process.h"
#include "launcher/local/attempt_files.h"
#include "launcher/local/attempt_processes.h"
#include "launcher/local/local_launcher.h"
#include "tests/support/temp_dir.h"

namespace emoe::launcher {

using namespace std::chrono_literals;

// True as soon as `condition` holds, false if it does not within a minute.
inline bool eventually(const std::function<bool()>& condition) {
  for (const auto deadline = std::chrono::steady_clock::now() + 60s;
       std::chrono::steady_clock::now() < deadline; std::this_thread::sleep_for(10ms)) {
    if (condition()) return true;
  }
  return false;
}

// One attempt in a folder of its own, of ranks that do what rank_program.cc says; fails the test
// when a process of it is left at the end.
class LocalLauncherTest : public ::testing::Test {
 protected:
  ~LocalLauncherTest() override {
    (void)launcher_.stop(handle(), StopMode::kill);
    for (const ProcessId& process : living()) {
      ADD_FAILURE() << "process " << process.pid << " was left behind";
      ::kill(process.pid, SIGKILL);
    }
  }

  static LocalLauncher::Config config() { return {.supervisor_program = EMOE_SUPERVISE}; }

  LaunchRequest request(std::vector<std::string> arguments, int ranks = 2) const {
    LaunchRequest result;
    result.job_id = "job-1";
    result.attempt = 1;
    result.ranks = ranks;
    result.worker_argv = {EMOE_RANK_PROGRAM};
    result.worker_argv.insert(result.worker_argv.end(), arguments.begin(), arguments.end());
    result.attempt_dir = dir_.path();
    return result;
  }

  LaunchHandle handle() const { return {"local:" + dir_.path().string()}; }

  void launch(std::vector<std::string> arguments, int ranks = 2) {
    const auto launched = launcher_.launch(request(std::move(arguments), ranks));
    ASSERT_TRUE(launched.ok()) << launched.status();
    ASSERT_EQ(*launched, handle());
  }

  // Both ranks have done what they say they are ready for: a signal finds them so.
  void wait_until_ready() {
    for (const char* file : {"ready.0", "ready.1"}) {
      ASSERT_TRUE(eventually([&] { return read_file(dir_ / file).value_or("").ends_with('\n'); }))
          << log();
    }
  }

  void launch_and_wait_until_ready(const std::string& what) {
    launch({what});
    ASSERT_NO_FATAL_FAILURE(wait_until_ready());
    // mpirun, two guards, two ranks: whatever is missed here would be missed when it is left over.
    ASSERT_EQ(living(supervisor().pid).size(), 5u);
  }

  // How the attempt ended; nothing of it is alive then.
  AttemptEnd wait_for_end(LocalLauncher& launcher) {
    AttemptStatus status;
    EXPECT_TRUE(eventually([&] {
      const auto polled = launcher.poll(handle());
      if (polled.ok()) status = *polled;
      return status.phase == AttemptPhase::ended;
    })) << log();
    // The supervisor itself ends right after it has written the end.
    EXPECT_TRUE(eventually([&] { return living().empty(); }));
    const AttemptFiles files(dir_.path());
    EXPECT_FALSE(std::filesystem::exists(files.mpi_session_dir()));
    EXPECT_FALSE(std::filesystem::exists(files.mpi_memory_dir()));
    return status.end;
  }
  AttemptEnd wait_for_end() { return wait_for_end(launcher_); }

  std::vector<ProcessId> living(pid_t spare = 0) const {
    return processes_of_attempt(dir_.path(), spare).value();
  }
  ProcessId supervisor() const { return read_supervisor(AttemptFiles(dir_.path())).value(); }
  pid_t mpirun() const {
    const std::vector<ProcessId> below = descendants(supervisor().pid).value();
    for (const ProcessId& process : below) {
      std::string name;
      std::ifstream("/proc/" + std::to_string(process.pid) + "/comm") >> name;
      if (name == "mpirun") return process.pid;
    }
    return 0;
  }
  std::string log() const { return read_file(dir_ / "output.log").value_or(""); }

  testing::TempDir dir_;
  LocalLauncher launcher_{config()};
};

}  // namespace emoe::launcher
