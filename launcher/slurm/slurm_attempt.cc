#include "launcher/slurm/slurm_attempt.h"

#include <cerrno>
#include <csignal>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <unistd.h>

#include "base/exit_code.h"
#include "base/file.h"
#include "base/utf8.h"

namespace emoe::launcher {
namespace {

constexpr const char* kWithdrawn = "withdrawn";
constexpr size_t kDetailBytes = 1000;

std::string link_of(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::read_symlink(path, error).string();
}

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

std::string SlurmAttempt::text_of(const char* name) const {
  std::string text = read_file(files_.dir() / name).value_or("");
  text.erase(text.find_last_not_of(" \n") + 1);
  return text;
}

Status SlurmAttempt::record_submission(const std::string& slurm_job) const {
  return write_file_atomically(files_.dir() / "slurm_job", slurm_job + "\n");
}

std::string SlurmAttempt::taken_by() const {
  const std::string run = link_of(files_.dir() / "slurm_run");
  return run == kWithdrawn ? "" : run.substr(0, run.find('.'));
}

bool SlurmAttempt::withdrawn() const {
  return link_of(files_.dir() / "slurm_run") == kWithdrawn;
}

Result<bool> SlurmAttempt::withdraw() const {
  const std::filesystem::path run = files_.dir() / "slurm_run";
  if (::symlink(kWithdrawn, run.c_str()) == 0) return true;
  if (errno != EEXIST) return errno_status(errno, "cannot make " + run.string());
  return withdrawn();
}

bool SlurmAttempt::all_ranks_left_word() const {
  const int ranks = read_launch(files_).value_or(LaunchRecord{}).ranks;
  return taken_by().empty() || static_cast<int>(read_rank_exits(files_, ranks).size()) == ranks;
}

AttemptEnd SlurmAttempt::end_of_ranks(const std::optional<SlurmJob>& job) const {
  const int ranks = read_launch(files_).value_or(LaunchRecord{}).ranks;
  if (const auto failure = first_failure(read_rank_exits(files_, ranks))) {
    return {.exit_code = failure->status.code,
            .signal = failure->status.signal,
            .rank = failure->rank,
            .out_of_memory = failure->out_of_memory,
            .detail = failure->last_lines};
  }
  // srun's own end, or that of a rank whose guard was killed with it: 128 + signal.
  ExitStatus status = job ? job->exit : ExitStatus{};
  int said = 0;
  if (absl::SimpleAtoi(text_of("slurm_exit"), &said)) {
    status = {said, 0};
  } else if (!job) {
    status = {0, SIGKILL};  // it never came to its end
  }
  if (status.code == 0 && status.signal == 0) return {};
  if (status.code > 128) status = {0, status.code - 128};
  const LogTail tail = tail_of(files_.output(), kDetailBytes).value_or(LogTail{});
  return {.exit_code = status.code,
          .signal = status.signal,
          .process = "srun",
          .detail = to_valid_utf8(tail.text)};
}

AttemptEnd SlurmAttempt::explain(const std::optional<SlurmJob>& job) const {
  AttemptEnd end = end_of_ranks(job);
  if (!job) {
    if (end.signal == SIGKILL) {
      absl::StrAppend(&end.detail, "Slurm does not know its job ", submitted(), " any more");
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
