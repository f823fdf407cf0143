#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/process.h"
#include "base/status.h"

namespace emoe::launcher {

// What Slurm's state of a job means for us.
enum class SlurmPhase { pending, running, ended };
enum class SlurmEnd {
  by_itself,  // the exit codes tell how
  cancelled,
  preempted,
  time_limit,
  node_lost,
  out_of_memory,
};
struct SlurmState {
  SlurmPhase phase = SlurmPhase::running;
  SlurmEnd end = SlurmEnd::by_itself;  // meaningful when phase is ended
};
// A word that we do not know counts as running: never as an end.
[[nodiscard]] SlurmState state_of(std::string_view word);

// A job as squeue lists it.
struct SlurmJob {
  std::string id;
  std::string state;   // "RUNNING"
  std::string reason;  // "Resources"; "None" where there is none
  int restarts = 0;    // how often Slurm has put it back into its queue
  ExitStatus exit;     // of the batch script
  std::string nodes;   // "n[1-2]"
  std::string name;
  std::string comment;
};

// The command that lists all jobs of this user, also those that ended a while ago (for Slurm's
// MinJobAge), in one call.
[[nodiscard]] std::vector<std::string> squeue_argv(const std::string& squeue);
// Its output. DATA_LOSS for a line that is none of its format.
[[nodiscard]] Result<std::vector<SlurmJob>> parse_squeue(const std::string& text);

}  // namespace emoe::launcher
