#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launcher/launcher.h"

namespace emoe::launcher {

// The script of every attempt, with nothing of a user in it: what differs comes as arguments (the
// program and its arguments, each a word) and in the environment (EMOE_ATTEMPT_DIR). It
//   - takes the attempt for its Slurm job by the link slurm_run, which only one ever gets: one that
//     was submitted twice, or that Slurm starts a second time, ends at once with kNotOurs;
//   - starts the ranks by srun and outlives Slurm's SIGTERM, as the ranks do that checkpoint then;
//   - leaves srun's exit code in slurm_exit and ends with it.
[[nodiscard]] const char* batch_script();
inline constexpr int kNotOurs = 73;

// What sbatch is told of one attempt beside the job's own wishes.
struct Submission {
  std::string sbatch;
  std::string name;                        // the Slurm job's name and comment
  QueueOptions defaults;                   // of the service, where the job says nothing
  std::chrono::seconds warning_time{300};  // from the warning signal to the time limit
  std::string rank_guard;                  // emoe-supervise
  uint64_t log_limit_bytes = 0;            // of what one rank prints
  std::filesystem::path script;
};
[[nodiscard]] std::vector<std::string> sbatch_argv(const Submission& submission,
                                                   const LaunchRequest& request);

// What the job wants, and what the service says where it wants nothing.
[[nodiscard]] QueueOptions combined(const QueueOptions& job, const QueueOptions& service);

}  // namespace emoe::launcher
