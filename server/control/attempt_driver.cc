#include "server/control/attempt_driver.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "base/id.h"
#include "base/log.h"
#include "config/config.h"
#include "server/control/attempt_verdict.h"
#include "server/job/errors.h"

namespace emoe::server {
namespace {

// How long the word of rank 0 may lag behind the exit of its process.
constexpr std::chrono::seconds kLastWord{5};
constexpr std::chrono::seconds kKillAgain{1};

}  // namespace

AttemptDriver::AttemptDriver(const ControlConfig& config, JobBook& book, SessionDesk& desk,
                             launcher::Launcher& launcher, const Clock& clock,
                             CoordinatorProbe& probe)
    : config_(config),
      book_(book),
      desk_(desk),
      launcher_(launcher),
      clock_(clock),
      probe_(probe) {}

std::filesystem::path AttemptDriver::job_dir(const ControlConfig& config,
                                             const std::string& job_id) {
  return config.state_dir / "jobs" / job_id;
}

std::filesystem::path AttemptDriver::attempt_dir(const ControlConfig& config,
                                                 const std::string& job_id, int attempt) {
  return job_dir(config, job_id) / absl::StrCat("attempt_", attempt);
}

std::unique_ptr<AttemptMonitor> AttemptDriver::make_monitor(const LiveJob& live,
                                                            bool adopted) const {
  AttemptMonitor::Config config;
  config.ranks = live.record.job.resolved_spec().parallel().ranks();
  config.join_timeout = config_.join_timeout;
  config.session_timeout = config_.session_timeout;
  config.progress_timeout = config_.progress_timeout;
  return std::make_unique<AttemptMonitor>(config, clock_.steady_now(), adopted);
}

Status AttemptDriver::start(LiveJob& live) {
  JobEdit edit(live, clock_);
  AttemptRecord attempt;
  attempt.job_id = edit.job().id();
  attempt.number = edit.job().attempts_size() + 1;
  attempt.token = random_hex(16);
  const v1::Reason last =
      attempt.number == 1 ? v1::REASON_UNSPECIFIED : edit.public_attempt().reason();
  edit.set_attempt(attempt);
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::slots_granted, v1::REASON_UNSPECIFIED, ""));
  v1::Attempt& shown = *edit.job().add_attempts();
  shown.set_number(attempt.number);
  *shown.mutable_start_time() = to_timestamp(clock_.wall_now());
  if (attempt.number == 1) *edit.job().mutable_start_time() = shown.start_time();
  edit.record().not_before.reset();
  EMOE_RETURN_IF_ERROR(book_.commit(live, std::move(edit)));

  live.attempt = std::make_unique<LiveAttempt>();
  live.attempt->record = attempt;
  live.attempt->monitor = make_monitor(live, false);
  probe_.attempt_started(attempt.number == 1 ? "first" : to_string(last));
  if (attempt.number == 1) {
    const auto created = to_wall_time(live.record.job.create_time());
    probe_.job_started(std::chrono::duration<double>(clock_.wall_now() - created).count());
  }
  return launch(live);
}

void AttemptDriver::adopt(LiveJob& live) {
  const bool launched = !live.attempt->record.handle.empty();
  live.attempt->monitor = make_monitor(live, launched);
  log_info("job %s: attempt %d taken up again in state %s", live.record.job.id(),
           live.attempt->record.number, to_string(live.record.job.state()));
}

Result<launcher::LaunchRequest> AttemptDriver::make_request(const LiveJob& live) const {
  const v1::Job& job = live.record.job;
  const AttemptRecord& attempt = live.attempt->record;
  launcher::LaunchRequest request;
  request.job_id = job.id();
  request.attempt = attempt.number;
  request.ranks = job.resolved_spec().parallel().ranks();
  const int threads = job.resolved_spec().resources().threads_per_rank();
  request.threads_per_rank = threads > 0 ? threads : std::max(config_.cores / request.ranks, 1);
  request.attempt_dir = attempt_dir(config_, job.id(), attempt.number);
  const std::filesystem::path spec = job_dir(config_, job.id()) / "job.yaml";
  EMOE_RETURN_IF_ERROR(emoe::create_directories(request.attempt_dir));
  EMOE_RETURN_IF_ERROR(write_file_atomically(spec, config::to_yaml(job.resolved_spec())));
  request.worker_argv = {config_.worker_program.string(), "run", spec.string(), "--out",
                         job.output_dir()};
  request.environment = {
      {"EMOE_COORDINATOR", address_},
      {"EMOE_JOB_ID", job.id()},
      {"EMOE_ATTEMPT", absl::StrCat(attempt.number)},
      {"EMOE_ATTEMPT_TOKEN", attempt.token},
      {"EMOE_RECONNECT_GRACE_SECONDS",
       absl::StrCat(std::chrono::ceil<std::chrono::seconds>(config_.reconnect_grace).count())},
  };
  return request;
}

// May run again for the same attempt (after a crash or a failed commit): the launcher then only
// returns the handle.
Status AttemptDriver::launch(LiveJob& live) {
  const auto request = make_request(live);
  if (!request.ok()) {
    return settle(live, {.exit_code = 74}, "launch: " + std::string(request.status().message()));
  }
  const auto handle = launcher_.launch(*request);
  if (!handle.ok()) {
    const std::string message = "launch: " + std::string(handle.status().message());
    switch (handle.status().code()) {
      case StatusCode::kResourceExhausted:
        return end_with(live, Finding::engine_busy, message);
      case StatusCode::kFailedPrecondition:
      case StatusCode::kNotFound:
        return end_with(live, Finding::launch_refused, message);
      case StatusCode::kDataLoss:
        return settle(live, {.exit_code = 74}, message);
      default:
        return end_with(live, Finding::join_timeout, message);
    }
  }
  JobEdit edit(live, clock_);
  edit.attempt().handle = handle->text;
  EMOE_RETURN_IF_ERROR(book_.commit(live, std::move(edit)));
  log_info("job %s: attempt %d launched as %s", request->job_id, request->attempt, handle->text);
  return ok_status();
}

Status AttemptDriver::drive(LiveJob& live) {
  if (live.attempt->record.handle.empty()) return launch(live);
  const auto status = launcher_.poll({live.attempt->record.handle});
  if (!status.ok()) {
    if (status.status().code() != StatusCode::kNotFound) {
      log_warning("job %s: %s", live.record.job.id(), std::string(status.status().message()));
      return ok_status();
    }
    if (reported_success(live.record.job, live.attempt->record)) return end(live, {});
    return end_with(live, Finding::engine_forgot,
                    "the attempt's processes were gone when the coordinator looked for them");
  }
  if (status->phase == launcher::AttemptPhase::ended) {
    return word_of_rank0_missing(live, status->end) ? ok_status() : end(live, status->end);
  }
  if (status->phase == launcher::AttemptPhase::running) EMOE_RETURN_IF_ERROR(observe(live));
  return live.attempt->record.doom ? remove(live) : ok_status();
}

bool AttemptDriver::word_of_rank0_missing(LiveJob& live, const launcher::AttemptEnd& end) {
  const AttemptRecord& attempt = live.attempt->record;
  if (end.exit_code != 0 || end.signal != 0 || attempt.doom || attempt.end_code) return false;
  const SteadyTime now = clock_.steady_now();
  if (!live.attempt->end_seen) live.attempt->end_seen = now;
  return now - *live.attempt->end_seen < kLastWord;
}

Status AttemptDriver::observe(LiveJob& live) {
  const AttemptRecord& attempt = live.attempt->record;
  if (attempt.doom) return ok_status();
  const SteadyTime now = clock_.steady_now();
  const auto& resources = live.record.job.resolved_spec().resources();
  const std::chrono::seconds limit(resources.max_runtime().seconds());
  if (limit.count() > 0 &&
      clock_.wall_now() - to_wall_time(live.record.job.start_time()) >= limit) {
    return doom(live, Finding::max_runtime,
                absl::StrCat("resources.max_runtime of ", limit.count(), " s is over"));
  }
  if (attempt.fault_code) {
    // A rank said why it fails; the others should follow at once. Its word stands, so no doom.
    if (!live.attempt->fault_seen) live.attempt->fault_seen = now;
    if (now - *live.attempt->fault_seen >= config_.stop_grace) kill(live);
    return ok_status();
  }
  if (const auto alarm = live.attempt->monitor->check(now)) {
    return doom(live, alarm->finding, alarm->message);
  }
  return ok_status();
}

Status AttemptDriver::doom(LiveJob& live, Finding finding, const std::string& message) {
  log_warning("job %s: attempt %d must go: %s", live.record.job.id(), live.attempt->record.number,
              message);
  JobEdit edit(live, clock_);
  edit.attempt().doom = finding;
  edit.attempt().doom_message = message;
  const Verdict verdict = judge({.finding = finding});
  if (verdict.action == RetryAction::retry && may_retry(edit.record(), 1)) {
    EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::attempt_lost, verdict.reason, message));
  } else {
    edit.log(v1::LogMessage::ERROR, message);
  }
  return book_.commit(live, std::move(edit));
}

Status AttemptDriver::cancel(LiveJob& live, JobEdit edit) {
  EMOE_RETURN_IF_ERROR(
      edit.apply(JobEvent::cancel_requested, v1::REASON_CANCELLED, edit.record().cancel_message));
  edit.attempt().doom = Finding::cancelled;
  edit.attempt().doom_message = edit.record().cancel_message;
  EMOE_RETURN_IF_ERROR(book_.commit(live, std::move(edit)));
  return ok_status();
}

// Removes a doomed attempt. One that can still listen is asked first: by its sessions, then by the
// launcher's signal, and killed after stop_grace; one that hangs or is in pieces is killed at once.
Status AttemptDriver::remove(LiveJob& live) {
  const Finding finding = *live.attempt->record.doom;
  if (finding != Finding::cancelled && finding != Finding::max_runtime) {
    kill(live);
    return ok_status();
  }
  const SteadyTime now = clock_.steady_now();
  if (!live.attempt->stopping_since) {
    live.attempt->stopping_since = now;
    SessionDesk::command(
        live, finding == Finding::cancelled ? RankCommand::stop : RankCommand::checkpoint_and_stop);
  }
  const auto waited = now - *live.attempt->stopping_since;
  if (waited >= config_.stop_grace) {
    kill(live);
  } else if (!live.attempt->asked_launcher &&
             (live.attempt->links.empty() || waited >= config_.stop_grace / 2)) {
    live.attempt->asked_launcher = true;
    const Status status =
        launcher_.stop({live.attempt->record.handle}, launcher::StopMode::graceful);
    if (!status.ok()) log_warning("stop: %s", std::string(status.message()));
  }
  return ok_status();
}

void AttemptDriver::kill(LiveJob& live) {
  const SteadyTime now = clock_.steady_now();
  if (live.attempt->last_kill && now - *live.attempt->last_kill < kKillAgain) return;
  live.attempt->last_kill = now;
  const Status status = launcher_.stop({live.attempt->record.handle}, launcher::StopMode::kill);
  if (!status.ok()) {
    log_warning("job %s: kill: %s", live.record.job.id(), std::string(status.message()));
  }
}

Status AttemptDriver::end(LiveJob& live, const launcher::AttemptEnd& end) {
  const AttemptOutcome outcome = outcome_of(live.record.job, live.attempt->record, end);
  const std::string message =
      end_message(live.attempt->record, *live.attempt->monitor, outcome, end);
  return settle(live, outcome, message);
}

Status AttemptDriver::end_with(LiveJob& live, Finding finding, const std::string& message) {
  const auto& doom = live.attempt->record.doom;
  return settle(live, {.finding = doom.value_or(finding)},
                doom ? live.attempt->record.doom_message : message);
}

Status AttemptDriver::settle(LiveJob& live, const AttemptOutcome& outcome,
                             const std::string& message) {
  const Verdict verdict = judge(outcome);
  JobEdit edit(live, clock_);
  const bool counted = verdict.action == RetryAction::retry || verdict.action == RetryAction::fail;
  edit.attempt().ended = true;
  v1::Attempt& shown = edit.public_attempt();
  *shown.mutable_end_time() = to_timestamp(clock_.wall_now());
  shown.set_reason(verdict.reason);
  shown.set_message(message);
  shown.set_counted(counted);
  if (counted) ++edit.record().failures;
  edit.touch();

  Status applied;
  if (edit.job().state() == v1::CANCELLING) {
    applied =
        edit.apply(JobEvent::attempt_gone, v1::REASON_CANCELLED, edit.record().cancel_message);
  } else if (verdict.action == RetryAction::succeed) {
    applied = edit.apply(JobEvent::completed, verdict.reason, message);
  } else if (verdict.action == RetryAction::fail) {
    applied = edit.apply(JobEvent::failed, verdict.reason, message);
  } else {
    applied = settle_retry(edit, verdict, message);
  }
  EMOE_RETURN_IF_ERROR(applied);
  EMOE_RETURN_IF_ERROR(book_.commit(live, std::move(edit)));

  const v1::Job& job = live.record.job;
  log_info("job %s: attempt %d ended: %s; now %s", job.id(), live.attempt->record.number, message,
           to_string(job.state()));
  if (is_terminal(job.state())) probe_.job_finished(job.state(), job.reason());
  desk_.dismiss(
      live, make_error(StatusCode::kFailedPrecondition, "STALE_ATTEMPT", "the attempt is over"));
  live.attempt.reset();
  return ok_status();
}

Status AttemptDriver::settle_retry(JobEdit& edit, const Verdict& verdict,
                                   const std::string& message) {
  const bool counted = verdict.action == RetryAction::retry;
  if (counted && !may_retry(edit.record(), 0)) {
    return edit.apply(JobEvent::failed, v1::REASON_ATTEMPTS_EXHAUSTED,
                      absl::StrCat("all ", edit.record().failures, " attempts failed; the last: ",
                                   to_string(verdict.reason), ": ", message));
  }
  if (edit.job().state() != v1::RECOVERING) {
    EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::attempt_lost, verdict.reason, message));
  }
  const auto pause =
      counted ? retry_pause(config_.retry_pause, edit.record().failures) : config_.retry_pause;
  edit.record().not_before = clock_.wall_now() + pause;
  return edit.apply(JobEvent::attempt_gone, verdict.reason, message);
}

}  // namespace emoe::server
