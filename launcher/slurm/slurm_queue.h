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
  int node_count = 0;  // that it has, or while it is pending asks for at the least; 0: not told
  std::string name;
  std::string comment;
};

// Whether a pending job waits, by Slurm's reason, for nodes: they are down, drained, reserved or other
// jobs have them. Not one that waits for its turn or for a limit.
[[nodiscard]] bool waits_for_nodes(std::string_view reason);

// The command that lists all jobs of this user, also those that ended a while ago (for Slurm's
// MinJobAge), in one call.
[[nodiscard]] std::vector<std::string> squeue_argv(const std::string& squeue);
// Its output. DATA_LOSS for a line that is none of its format.
[[nodiscard]] Result<std::vector<SlurmJob>> parse_squeue(const std::string& text);

}  // namespace emoe::launcher
