#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "launcher/launcher.h"
#include "launcher/slurm/command.h"
#include "launcher/slurm/slurm_attempt.h"
#include "launcher/slurm/slurm_queue.h"

namespace emoe::launcher {

// Attempts as Slurm jobs: one sbatch each, srun inside (batch_script.h).
//
// Name and comment of the Slurm job are made of job and attempt, so that an attempt is found again
// whoever submitted it, also where the number that sbatch printed was lost with a coordinator. That an attempt
// never runs twice does not depend on that: see SlurmAttempt::taken_by(). Slurm may put a job back
// into its queue (an administrator, a preemption, a lost node): for us the attempt has ended then,
// what is in the queue is cancelled, and the next attempt is a Slurm job of its own.
//
// One squeue answers for all attempts, at most once in poll_interval. While the controller is away
// attempts are `unknown`, as long as it takes.
//
// A graceful stop is the warning signal (SIGUSR1) to the ranks, or scancel for what still waits; kill
// is scancel: SIGTERM, and SIGKILL after Slurm's KillWait. Ranks see the environment that they see under
// the local launcher, and the coordinator's own.
//
// The attempts' folders, the programs and all files of the jobs lie where every node sees them.
// Thread-safe; a call takes as long as Slurm's commands do, at most command_limit each.
class SlurmLauncher final : public Launcher {
 public:
  struct Config {
    QueueOptions defaults;
    std::chrono::seconds warning_time{300};
    std::chrono::milliseconds poll_interval{5'000};
    std::chrono::milliseconds command_limit{30'000};
    std::string bin_dir;                  // of sbatch, squeue and scancel; empty: PATH
    std::string rank_guard_program;       // emoe-supervise
    uint64_t log_limit_bytes = 64 << 20;  // of what all ranks print
  };

  SlurmLauncher(Config config, const Clock& clock, CommandRunner run = run_command)
      : config_(std::move(config)), clock_(clock), run_(std::move(run)) {}

  [[nodiscard]] LaunchHandle handle_of(const std::string& job_id, int attempt,
                                       const std::filesystem::path& attempt_dir) const override;
  // FAILED_PRECONDITION: no sbatch, or Slurm refuses the job (its own words).
  [[nodiscard]] Result<LaunchHandle> launch(const LaunchRequest& request) override;
  [[nodiscard]] Result<AttemptStatus> poll(const LaunchHandle& handle) override;
  [[nodiscard]] Status stop(const LaunchHandle& handle, StopMode mode) override;
  [[nodiscard]] Result<LogTail> log(const LaunchHandle& handle, size_t bytes) override;
  [[nodiscard]] std::string name() const override { return "slurm"; }

 private:
  // What a handle's text says.
  struct Named {
    std::string name;  // of the Slurm job
    SlurmAttempt attempt;
  };
  struct Stopped {
    StopMode mode;
    SteadyTime time;
  };

  [[nodiscard]] static Result<Named> parse(const LaunchHandle& handle);
  [[nodiscard]] Result<CommandResult> command(
      std::vector<std::string> argv, std::map<std::string, std::string> set_env = {}) const;
  [[nodiscard]] std::string program(const char* name) const;
  // Asks squeue if the last answer, or the last question, is poll_interval old.
  void refresh(SteadyTime now);
  void take(std::vector<SlurmJob> jobs, SteadyTime asked);
  [[nodiscard]] Status submit(const LaunchRequest& request, const Named& named);
  // The attempt's Slurm job in the last answer; others of its name are cancelled.
  [[nodiscard]] std::optional<SlurmJob> find(const Named& named);
  [[nodiscard]] AttemptStatus status_of(const Named& named, const SlurmJob& job);
  [[nodiscard]] Status cancel(const std::string& slurm_job, StopMode mode);
  // The last answer was asked for after sbatch had come back: what is not in it has ended.
  [[nodiscard]] bool covers(const Named& named) const;

  const Config config_;
  const Clock& clock_;
  const CommandRunner run_;
  std::mutex mutex_;                             // one call at a time
  std::vector<SlurmJob> jobs_;                   // of the last answer
  std::optional<SteadyTime> answered_;           // when that was asked for
  std::optional<SteadyTime> asked_;              // the last question
  bool away_ = true;                             // it got no answer
  std::map<std::string, SteadyTime> submitted_;  // by name: those that no answer is newer than
  std::map<std::string, Stopped> stopped_;       // by Slurm job
};

}  // namespace emoe::launcher
