#include "server/control/attempt_verdict.h"

#include <absl/strings/str_cat.h>

namespace emoe::server {

bool reported_success(const v1::Job& job, const AttemptRecord& attempt) {
  if (attempt.end_code != 0) return false;
  const v1::JobSpec& spec = job.resolved_spec();
  if (spec.task() == "evaluate") return job.has_eval_last();
  const v1::Export& wanted = spec.export_();
  return !wanted.merged() || (job.has_merge() && (job.merge().verified() || !wanted.verify()));
}

AttemptOutcome outcome_of(const v1::Job& job, const AttemptRecord& attempt,
                          const launcher::AttemptEnd& end) {
  AttemptOutcome outcome;
  outcome.reported_success = reported_success(job, attempt);
  // A job that finished although its attempt was given up has finished; how its processes ended is
  // our own doing then.
  if (attempt.stop_reason && attempt.stop_reason != Finding::cancelled &&
      outcome.reported_success) {
    return outcome;
  }
  outcome.finding = attempt.stop_reason;
  outcome.out_of_memory = end.out_of_memory;
  if (attempt.fault_code) {
    // The rank's own word is better than the exit of whichever process the engine saw end first.
    outcome.exit_code = *attempt.fault_code;
  } else {
    outcome.exit_code = end.exit_code;
    outcome.signal = end.signal;
  }
  return outcome;
}

std::string end_message(const AttemptRecord& attempt, const AttemptMonitor& monitor,
                        const AttemptOutcome& outcome, const launcher::AttemptEnd& end) {
  if (outcome.finding) return attempt.stop_message;
  if (judge(outcome).action == RetryAction::succeed) return "completed";
  if (attempt.fault_code) return attempt.fault_message;
  if (outcome.exit_code == 0 && outcome.signal == 0) {
    return "the processes ended with exit code 0, but rank 0 did not report a verified end";
  }
  const std::string who = end.rank ? monitor.describe(*end.rank) : std::string("a process");
  return absl::StrCat(who, ": ", describe_exit(outcome), end.detail.empty() ? "" : "; ",
                      end.detail);
}

bool may_retry(const JobRecord& record, int more) {
  return record.failures + more < record.job.resolved_spec().resources().max_attempts();
}

}  // namespace emoe::server
