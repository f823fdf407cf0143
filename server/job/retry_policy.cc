#include "server/job/retry_policy.h"

#include <algorithm>
#include <csignal>

#include <absl/strings/str_cat.h>

#include "base/exit_code.h"

namespace emoe::server {
namespace {

Verdict judge_finding(Finding finding) {
  switch (finding) {
    case Finding::session_lost:
      return {v1::REASON_PEER_LOST, RetryAction::retry};
    case Finding::hang:
      return {v1::REASON_HANG, RetryAction::retry};
    case Finding::join_timeout:
      return {v1::REASON_START_FAILED, RetryAction::retry};
    case Finding::world_size_mismatch:
    case Finding::launch_refused:
      return {v1::REASON_START_FAILED, RetryAction::fail};
    case Finding::engine_busy:
      return {v1::REASON_START_FAILED, RetryAction::requeue_uncounted};
    case Finding::engine_forgot:
      return {v1::REASON_COORDINATOR_LOST, RetryAction::retry};
    case Finding::max_runtime:
      return {v1::REASON_MAX_RUNTIME, RetryAction::fail};
    case Finding::cancelled:
      return {v1::REASON_CANCELLED, RetryAction::end_cancelled};
  }
  return {v1::REASON_INTERNAL, RetryAction::fail};
}

Verdict judge_code(int code) {
  switch (static_cast<ExitCode>(code)) {
    case ExitCode::configuration:
      return {v1::REASON_CONFIGURATION, RetryAction::fail};
    case ExitCode::data:
      return {v1::REASON_DATA, RetryAction::fail};
    case ExitCode::peer_lost:
      return {v1::REASON_PEER_LOST, RetryAction::retry};
    case ExitCode::io:
      return {v1::REASON_IO, RetryAction::retry};
    case ExitCode::preempted:
      return {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted};
    case ExitCode::non_finite:
      return {v1::REASON_NON_FINITE, RetryAction::fail};
    case ExitCode::out_of_memory:
      return {v1::REASON_OUT_OF_MEMORY, RetryAction::fail};
    default:
      return {v1::REASON_INTERNAL, RetryAction::retry};
  }
}

}  // namespace

Verdict judge(const AttemptOutcome& outcome) {
  if (outcome.finding) return judge_finding(*outcome.finding);
  if (outcome.out_of_memory) return {v1::REASON_OUT_OF_MEMORY, RetryAction::fail};
  // A preemption signal that came before the worker could catch it.
  if (outcome.signal == SIGTERM || outcome.signal == SIGUSR1) {
    return {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted};
  }
  if (outcome.signal != 0) return {v1::REASON_PEER_LOST, RetryAction::retry};
  if (outcome.exit_code != 0) return judge_code(outcome.exit_code);
  if (outcome.reported_success) return {v1::REASON_COMPLETED, RetryAction::succeed};
  // Exit code 0 without the word of rank 0 is no success: nobody saw the export being verified.
  return {v1::REASON_INTERNAL, RetryAction::retry};
}

std::chrono::milliseconds retry_pause(std::chrono::milliseconds base, int failures) {
  return base * (1 << std::clamp(failures - 1, 0, 6));
}

std::string describe_exit(const AttemptOutcome& outcome) {
  const std::string memory = outcome.out_of_memory ? " (out of memory)" : "";
  if (outcome.signal != 0) return absl::StrCat("signal ", outcome.signal, memory);
  return absl::StrCat("exit code ", outcome.exit_code, memory);
}

}  // namespace emoe::server
