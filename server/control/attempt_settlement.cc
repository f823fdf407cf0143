#include "server/control/attempt_settlement.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/exit_code.h"
#include "base/log.h"
#include "server/control/measurement.h"
#include "server/job/errors.h"

namespace emoe::server {
namespace {

std::optional<Finding> finding_of(launcher::EndCause cause) {
  using launcher::EndCause;
  switch (cause) {
    case EndCause::ranks:
      return std::nullopt;
    case EndCause::preempted:
      return Finding::engine_preempted;
    case EndCause::time_limit:
      return Finding::engine_time_limit;
    case EndCause::node_lost:
      return Finding::node_lost;
    case EndCause::cancelled:
      return Finding::cancelled_in_engine;
    case EndCause::not_started:
      return Finding::join_timeout;
    case EndCause::host_unusable:
      return Finding::host_unusable;
  }
  return std::nullopt;
}

// The attempt ended itself because of what it found.
bool failed_its_preflight(const v1::Job& job, const AttemptRecord& attempt) {
  const auto& rows = job.preflight().rows();
  return attempt.fault_code && job.preflight().attempt() == attempt.number &&
         std::ranges::any_of(rows, [](const auto& row) { return row.verdict() == "bad"; });
}

// Puts together what the launcher saw, what the ranks reported and what the coordinator found.
AttemptOutcome outcome_of(const v1::Job& job, const AttemptRecord& attempt,
                          const launcher::AttemptEnd& end) {
  AttemptOutcome outcome;
  outcome.reported_success = reported_success(job, attempt);
  outcome.exporting = job.has_export_of() || job.state() == v1::EXPORTING;
  // A job that finished although its attempt was given up has finished; how its processes ended is
  // our own doing then.
  const bool given_up = attempt.stop_reason && attempt.stop_reason != Finding::cancelled;
  const bool taken_away = !attempt.stop_reason && end.cause != launcher::EndCause::ranks;
  if ((given_up || taken_away) && outcome.reported_success) return outcome;
  outcome.finding = attempt.stop_reason;
  // One that was to leave may have failed by itself before.
  const bool own_failure =
      attempt.fault_code && *attempt.fault_code != static_cast<int>(ExitCode::preempted);
  if (outcome.finding && leaves_at_step_edge(*outcome.finding) && own_failure) {
    outcome.finding.reset();
  }
  if (!outcome.finding) outcome.finding = finding_of(end.cause);
  if (!outcome.finding && failed_its_preflight(job, attempt)) {
    outcome.finding = Finding::preflight_failed;
  }
  outcome.out_of_memory = end.out_of_memory;
  if (attempt.fault_code) {
    // A rank's own report says more than the exit of the process that the engine saw end first.
    outcome.exit_code = *attempt.fault_code;
  } else {
    outcome.exit_code = end.exit_code;
    outcome.signal = end.signal;
  }
  return outcome;
}

// "rank 1 on host n2 in step 37, phase backward: signal 9; <detail>"
std::string end_message(const AttemptRecord& attempt, const AttemptMonitor& monitor,
                        const AttemptOutcome& outcome, const launcher::AttemptEnd& end) {
  if (outcome.finding == Finding::preflight_failed) return attempt.fault_message;
  if (outcome.finding)
    return outcome.finding == attempt.stop_reason ? attempt.stop_message : end.detail;
  if (judge(outcome).action == RetryAction::succeed) return "completed";
  if (attempt.fault_code) return attempt.fault_message;
  if (outcome.exit_code == 0 && outcome.signal == 0) {
    return "the processes ended with exit code 0, but rank 0 did not report a verified end";
  }
  const std::string who = end.rank               ? monitor.describe(*end.rank)
                          : !end.process.empty() ? end.process
                                                 : std::string("a process");
  return absl::StrCat(who, ": ", describe_exit(outcome), end.detail.empty() ? "" : "; ",
                      end.detail);
}

}  // namespace

bool reported_success(const v1::Job& job, const AttemptRecord& attempt) {
  if (attempt.end_code != 0) return false;
  const v1::JobSpec& spec = job.resolved_spec();
  if (spec.task() == "evaluate") return job.has_eval_last();
  if (spec.task() == "preflight") return job.has_preflight();
  const v1::Export& wanted = spec.export_();
  const bool converts =
      spec.task() == "convert";  // to files of its own, and to a model where it is asked for
  const bool reorders = converts && (spec.emoe().experts() == 0 || !wanted.original_order());
  const bool merges = spec.task() == "merge" || wanted.merged() || reorders;
  return !merges || (job.has_merge() && (job.merge().verified() || !wanted.verify()));
}

bool may_retry(const JobRecord& record, int more) {
  return record.failures + more < record.job.resolved_spec().resources().max_attempts();
}

Status AttemptSettlement::settle_end(LiveJob& live, const launcher::AttemptEnd& end) {
  if (!end.host.empty()) parts_.hosts.failed(end.host, end.detail, parts_.clock.steady_now());
  const AttemptOutcome outcome = outcome_of(live.record.job, live.attempt->record, end);
  const std::string message =
      end_message(live.attempt->record, *live.attempt->monitor, outcome, end);
  return settle(live, outcome, message);
}

Status AttemptSettlement::settle_without_end(LiveJob& live, Finding finding,
                                             const std::string& message) {
  const auto& stop_reason = live.attempt->record.stop_reason;
  return settle(live, {.finding = stop_reason.value_or(finding)},
                stop_reason ? live.attempt->record.stop_message : message);
}

Status AttemptSettlement::settle_machine_error(LiveJob& live, const std::string& message) {
  return settle(live, {.exit_code = static_cast<int>(ExitCode::io)}, message);
}

Status AttemptSettlement::settle(LiveJob& live, const AttemptOutcome& outcome,
                                 const std::string& message) {
  const Verdict verdict = judge(outcome);
  JobEdit edit(live, parts_.clock);
  const bool counted = verdict.action == RetryAction::retry || verdict.action == RetryAction::fail;
  edit.attempt().ended = true;
  v1::Attempt& shown = edit.public_attempt();
  *shown.mutable_end_time() = to_timestamp(parts_.clock.wall_now());
  shown.set_reason(verdict.reason);
  shown.set_message(message);
  shown.set_counted(counted);
  if (counted) ++edit.record().failures;
  edit.touch();

  Status applied;
  if (edit.job().state() == v1::CANCELLING) {
    applied =
        edit.apply(JobEvent::attempt_gone, v1::REASON_CANCELLED, edit.record().cancel_message);
  } else if (verdict.action == RetryAction::end_cancelled) {  // in the engine: nobody told us
    applied = edit.apply(JobEvent::cancel_requested, verdict.reason, message);
    if (applied.ok()) applied = edit.apply(JobEvent::attempt_gone, verdict.reason, message);
  } else if (verdict.action == RetryAction::succeed) {
    applied = edit.apply(JobEvent::completed, verdict.reason, message);
  } else if (verdict.action == RetryAction::fail) {
    applied = edit.apply(JobEvent::failed, verdict.reason, message);
  } else {
    applied = requeue_or_fail(edit, verdict, message);
  }
  EMOE_RETURN_IF_ERROR(applied);
  EMOE_RETURN_IF_ERROR(measure(edit, parts_.store, parts_.clock));
  EMOE_RETURN_IF_ERROR(parts_.jobs.commit(live, std::move(edit)));

  const v1::Job& job = live.record.job;
  log_info("job %s: attempt %d ended: %s; now %s", job.id(), live.attempt->record.number, message,
           to_string(job.state()));
  if (parts_.config.on_preflight && job.has_preflight() &&
      job.preflight().attempt() == live.attempt->record.number) {
    parts_.config.on_preflight(job.preflight());
  }
  if (is_terminal(job.state())) parts_.probe.job_finished(job.state(), job.reason());
  parts_.sessions.dismiss(
      live, make_error(StatusCode::kFailedPrecondition, "STALE_ATTEMPT", "the attempt is over"));
  parts_.launcher.forget(parts_.handle_of(live));
  live.attempt.reset();
  return ok_status();
}

Status AttemptSettlement::requeue_or_fail(JobEdit& edit, const Verdict& verdict,
                                          const std::string& message) {
  const bool counted = verdict.action == RetryAction::retry;
  if (counted && !may_retry(edit.record(), 0)) {
    return edit.apply(JobEvent::failed, v1::REASON_ATTEMPTS_EXHAUSTED,
                      absl::StrCat("all ", edit.record().failures, " attempts failed; the last: ",
                                   to_string(verdict.reason), ": ", message));
  }
  if (edit.job().state() == v1::PAUSING) {
    return edit.apply(JobEvent::attempt_gone, verdict.reason, message);
  }
  if (edit.job().state() != v1::RECOVERING) {
    EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::attempt_lost, verdict.reason, message));
  }
  if (edit.attempt().stop_reason == Finding::no_room) {  // it has waited long enough
    edit.record().not_before.reset();
    return edit.apply(JobEvent::attempt_gone, verdict.reason, message);
  }
  int& idle = edit.record().idle_requeues;
  if (edit.steps().begun) {
    idle = 0;
  } else if (!counted) {
    ++idle;
  }
  edit.record().not_before =
      parts_.clock.wall_now() +
      retry_pause(parts_.config.retry_pause, counted ? edit.record().failures : std::max(idle, 1));
  return edit.apply(JobEvent::attempt_gone, verdict.reason, message);
}

}  // namespace emoe::server
