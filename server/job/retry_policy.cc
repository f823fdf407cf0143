#include "server/job/retry_policy.h"

#include <algorithm>
#include <csignal>
#include <iterator>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/exit_code.h"

namespace emoe::server {
namespace {

// By the number of the finding.
constexpr Verdict kOfFinding[] = {
    {v1::REASON_PEER_LOST, RetryAction::retry},                 // session_lost
    {v1::REASON_HANG, RetryAction::retry},                      // hang
    {v1::REASON_START_FAILED, RetryAction::retry},              // join_timeout
    {v1::REASON_START_FAILED, RetryAction::fail},               // world_size_mismatch
    {v1::REASON_START_FAILED, RetryAction::fail},               // launch_refused
    {v1::REASON_START_FAILED, RetryAction::requeue_uncounted},  // engine_busy
    {v1::REASON_COORDINATOR_LOST, RetryAction::retry},          // engine_forgot
    {v1::REASON_MAX_RUNTIME, RetryAction::fail},                // max_runtime
    {v1::REASON_CANCELLED, RetryAction::end_cancelled},         // cancelled
    {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted},     // engine_preempted
    {v1::REASON_PREEMPTED, RetryAction::retry},                 // engine_time_limit
    {v1::REASON_PEER_LOST, RetryAction::retry},                 // node_lost
    {v1::REASON_CANCELLED, RetryAction::end_cancelled},         // cancelled_in_engine
    {v1::REASON_START_FAILED, RetryAction::requeue_uncounted},  // host_unusable
    {v1::REASON_PREFLIGHT, RetryAction::retry},                 // preflight_failed
    {v1::REASON_START_FAILED, RetryAction::requeue_uncounted},  // no_room
    {v1::REASON_PAUSED, RetryAction::requeue_uncounted},        // paused
    {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted},     // displaced
};
static_assert(std::size(kOfFinding) == static_cast<size_t>(Finding::displaced) + 1);

Verdict judge_finding(Finding finding) {
  const auto number = static_cast<size_t>(finding);  // maybe one that a newer version stored
  return number < std::size(kOfFinding) ? kOfFinding[number]
                                        : Verdict{v1::REASON_INTERNAL, RetryAction::fail};
}

constexpr std::pair<ExitCode, Verdict> kOfExitCode[] = {
    {ExitCode::configuration, {v1::REASON_CONFIGURATION, RetryAction::fail}},
    {ExitCode::data, {v1::REASON_DATA, RetryAction::fail}},
    {ExitCode::peer_lost, {v1::REASON_PEER_LOST, RetryAction::retry}},
    {ExitCode::io, {v1::REASON_IO, RetryAction::retry}},
    {ExitCode::preempted, {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted}},
    {ExitCode::non_finite, {v1::REASON_NON_FINITE, RetryAction::fail}},
    {ExitCode::out_of_memory, {v1::REASON_OUT_OF_MEMORY, RetryAction::fail}},
};

Verdict judge_code(int code) {
  for (const auto& [known, verdict] : kOfExitCode) {
    if (static_cast<int>(known) == code) return verdict;
  }
  return {v1::REASON_INTERNAL, RetryAction::retry};
}

}  // namespace

Verdict judge(const AttemptOutcome& outcome) {
  if (outcome.finding) return judge_finding(*outcome.finding);
  if (outcome.out_of_memory) return {v1::REASON_OUT_OF_MEMORY, RetryAction::fail};
  // A preemption signal that came before the worker had its handler.
  if (outcome.signal == SIGTERM || outcome.signal == SIGUSR1) {
    return {v1::REASON_PREEMPTED, RetryAction::requeue_uncounted};
  }
  if (outcome.signal != 0) return {v1::REASON_PEER_LOST, RetryAction::retry};
  // Nothing in an export is left to chance: the next would be made of the same files.
  if (outcome.exporting && outcome.exit_code == static_cast<int>(ExitCode::internal)) {
    return {v1::REASON_INTERNAL, RetryAction::fail};
  }
  if (outcome.exit_code != 0) return judge_code(outcome.exit_code);
  if (outcome.reported_success) return {v1::REASON_COMPLETED, RetryAction::succeed};
  // Exit code 0 without a good End report of rank 0 is no success: nobody saw the export verified.
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
