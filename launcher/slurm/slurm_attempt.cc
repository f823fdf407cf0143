#include "launcher/slurm/slurm_attempt.h"

#include <csignal>

#include <absl/strings/str_cat.h>

#include "base/exit_code.h"

namespace emoe::launcher {
namespace {

EndCause cause_of(SlurmEnd end) {
  switch (end) {
    case SlurmEnd::cancelled:
      return EndCause::cancelled;
    case SlurmEnd::preempted:
      return EndCause::preempted;
    case SlurmEnd::time_limit:
      return EndCause::time_limit;
    case SlurmEnd::node_lost:
      return EndCause::node_lost;
    case SlurmEnd::by_itself:
    case SlurmEnd::out_of_memory:
      return EndCause::ranks;
  }
  return EndCause::ranks;
}

std::string described(const SlurmJob& job) {
  const std::string nodes = job.nodes.empty() ? "" : absl::StrCat(" on ", job.nodes);
  const std::string reason = job.reason == "None" ? "" : absl::StrCat(" (", job.reason, ")");
  return absl::StrCat("Slurm job ", job.id, nodes, ": ", job.state, reason);
}

}  // namespace

std::string SlurmAttempt::taken_by() const {
  const std::string run = claim().taken_by();
  return run.substr(0, run.find('.'));
}

bool SlurmAttempt::all_ranks_left_word() const {
  const int ranks = read_launch(files()).value_or(LaunchRecord{}).ranks;
  return !taken() || static_cast<int>(read_rank_exits(files(), ranks).size()) == ranks;
}

AttemptEnd SlurmAttempt::explain(const std::optional<SlurmJob>& job) const {
  // Also that of a rank whose guard was killed with it; of one that Slurm forgot: it never came to its end.
  AttemptEnd end = end_of_ranks(job ? job->exit : ExitStatus{0, SIGKILL}, "srun");
  if (!job) {
    if (end.signal == SIGKILL) {
      absl::StrAppend(&end.detail, "Slurm does not know its job ", given_as(), " any more");
    }
    return end;
  }
  const SlurmEnd said = state_of(job->state).end;
  end.out_of_memory = end.out_of_memory || said == SlurmEnd::out_of_memory;
  end.cause = cause_of(said);
  if (job->restarts > 0) {  // by an administrator, for another job, or because a node was lost
    end.cause = all_ranks_left_word() ? EndCause::preempted : EndCause::node_lost;
  }
  const bool checkpointed = end.exit_code == static_cast<int>(ExitCode::preempted);
  if (end.cause == EndCause::time_limit && checkpointed) end.cause = EndCause::preempted;
  if (end.cause == EndCause::ranks) return end;
  end.detail = described(*job);
  if (job->restarts > 0) absl::StrAppend(&end.detail, ", put back into Slurm's queue");
  return end;
}

}  // namespace emoe::launcher
