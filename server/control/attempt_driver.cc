#include "server/control/attempt_driver.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/attempt_contract.h"
#include "base/exit_code.h"
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
// Attempts that a job shows, the newest; the store has a row of each.
constexpr int kShownAttempts = 20;

// Ranks with a session hear its commands; those that have said their last words need none.
bool needs_signal(const LiveAttempt& attempt) {
  return attempt.links.empty() && !attempt.monitor->all_ended();
}

Finding finding_of_launch(StatusCode code) {
  if (code == StatusCode::kResourceExhausted) return Finding::engine_busy;
  const bool refused = code == StatusCode::kFailedPrecondition || code == StatusCode::kNotFound;
  return refused ? Finding::launch_refused : Finding::join_timeout;
}

}  // namespace

AttemptDriver::AttemptDriver(const ControlConfig& config, JobBook& book, SessionDesk& desk,
                             JobStore& store, launcher::Launcher& launcher, const Clock& clock,
                             CoordinatorProbe& probe, FailureLog& failures)
    : config_(config),
      book_(book),
      desk_(desk),
      store_(store),
      launcher_(launcher),
      clock_(clock),
      probe_(probe),
      failures_(failures) {}

std::filesystem::path AttemptDriver::jobs_dir(const ControlConfig& config) {
  return config.state_dir / "jobs";
}

std::filesystem::path AttemptDriver::job_dir(const ControlConfig& config,
                                             const std::string& job_id) {
  return jobs_dir(config) / job_id;
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
  attempt.number = newest_attempt(edit.job()) + 1;
  const bool first = attempt.number == 1;
  attempt.token = random_hex(16);
  const v1::Reason last = first ? v1::REASON_UNSPECIFIED : edit.public_attempt().reason();
  edit.set_attempt(attempt);
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::slots_granted, v1::REASON_UNSPECIFIED, ""));
  v1::Attempt& shown = *edit.job().add_attempts();
  shown.set_number(attempt.number);
  *shown.mutable_start_time() = to_timestamp(clock_.wall_now());
  if (first) *edit.job().mutable_start_time() = shown.start_time();
  edit.job().mutable_progress()->clear_phase();  // of the attempt before
  auto& all = *edit.job().mutable_attempts();
  all.DeleteSubrange(0, std::max(all.size() - kShownAttempts, 0));
  edit.record().not_before.reset();
  EMOE_RETURN_IF_ERROR(book_.commit(live, std::move(edit)));

  live.attempt = std::make_unique<LiveAttempt>();
  live.attempt->record = attempt;
  live.attempt->monitor = make_monitor(live, false);
  keep_pause(live);
  probe_.attempt_started(first ? "first" : to_string(last));
  if (first) {
    const auto created = to_wall_time(live.record.job.create_time());
    probe_.job_started(std::chrono::duration<double>(clock_.wall_now() - created).count());
  }
  return ok_status();
}

Status AttemptDriver::adopt(LiveJob& live) {
  keep_pause(live);
  if (!live.attempt) return ok_status();
  const AttemptRecord& attempt = live.attempt->record;
  EMOE_ASSIGN_OR_RETURN(live.attempt->tally.begun,
                        store_.has_steps(attempt.job_id, attempt.number));
  live.attempt->monitor = make_monitor(live, !attempt.handle.empty());
  log_info("job %s: attempt %d taken up again in state %s", attempt.job_id, attempt.number,
           to_string(live.record.job.state()));
  return ok_status();
}

// The pause was stored in wall-clock time. Somebody may set that clock: from here on it only runs.
void AttemptDriver::keep_pause(LiveJob& live) const {
  live.resume_at.reset();
  if (!live.record.not_before) return;
  const WallTime::duration longest =
      retry_pause(config_.retry_pause, std::numeric_limits<int>::max());
  const auto left = *live.record.not_before - clock_.wall_now();
  live.resume_at = clock_.steady_now() + std::clamp(left, WallTime::duration::zero(), longest);
}

launcher::LaunchHandle AttemptDriver::handle_of(const LiveJob& live) const {
  const AttemptRecord& attempt = live.attempt->record;
  if (!attempt.handle.empty()) return {attempt.handle};
  return launcher_.handle_of(attempt.job_id, attempt.number,
                             attempt_dir(config_, attempt.job_id, attempt.number));
}

std::optional<PendingLaunch> AttemptDriver::pending_launch(LiveJob& live) const {
  if (!live.attempt || !std::exchange(live.attempt->launch_due, false)) return std::nullopt;
  const v1::Job& job = live.record.job;
  const AttemptRecord& attempt = live.attempt->record;
  PendingLaunch pending{
      &live, {}, job_dir(config_, job.id()) / "job.yaml", config::to_yaml(job.resolved_spec())};
  launcher::LaunchRequest& request = pending.request;
  request.job_id = job.id();
  request.attempt = attempt.number;
  request.ranks = job.resolved_spec().parallel().ranks();
  // A slot's share of the cores: other jobs have the other slots.
  const int threads = job.resolved_spec().resources().threads_per_rank();
  request.threads_per_rank =
      threads > 0 ? threads : std::max(config_.cores / std::max(config_.slots_total, 1), 1);
  request.attempt_dir = attempt_dir(config_, job.id(), attempt.number);
  request.worker_argv = {config_.worker_program.string(), "run", pending.spec_path.string(),
                         "--out", job.output_dir()};
  request.environment = {
      {kCoordinatorVariable, address_},
      {kAttemptTokenVariable, attempt.token},
      {kReconnectGraceVariable,
       absl::StrCat(std::chrono::ceil<std::chrono::seconds>(config_.reconnect_grace).count())},
  };
  return pending;
}

LaunchOutcome AttemptDriver::launch(const PendingLaunch& pending) const {
  LaunchOutcome outcome;
  outcome.files = emoe::create_directories(pending.request.attempt_dir);
  outcome.files.Update(write_file_atomically(pending.spec_path, pending.spec));
  if (outcome.files.ok()) outcome.launched = launcher_.launch(pending.request).status();
  return outcome;
}

Status AttemptDriver::launched(LiveJob& live, const LaunchOutcome& outcome) {
  const Status& failure = outcome.files.ok() ? outcome.launched : outcome.files;
  if (failure.ok()) {
    log_info("job %s: attempt %d launched as %s", live.record.job.id(), live.attempt->record.number,
             handle_of(live).text);
    return confirm(live);
  }
  const std::string message = "launch: " + std::string(failure.message());
  const Finding finding = finding_of_launch(failure.code());
  // Only an attempt of which the launcher knows nothing has surely no process.
  if (launcher_.poll(handle_of(live)).status().code() != StatusCode::kNotFound) {
    return live.attempt->record.doom ? ok_status() : doom(live, finding, message);
  }
  const bool machine = !outcome.files.ok() || failure.code() == StatusCode::kDataLoss;
  return machine ? settle(live, {.exit_code = static_cast<int>(ExitCode::io)}, message)
                 : end_with(live, finding, message);
}

Status AttemptDriver::confirm(LiveJob& live) {
  JobEdit edit(live, clock_);
  edit.attempt().handle = handle_of(live).text;
  return book_.commit(live, std::move(edit));
}

Status AttemptDriver::drive(LiveJob& live, SteadyTime now) {
  const auto status = launcher_.poll(handle_of(live));
  if (status.status().code() == StatusCode::kNotFound) return unknown_to_launcher(live);
  if (!status.ok()) {
    failures_.note("job " + live.record.job.id(), status.status());
    return ok_status();
  }
  // A handle that could not be stored is no reason not to look after the attempt.
  Status result = live.attempt->record.handle.empty() ? confirm(live) : ok_status();
  result.Update(follow(live, *status, now));
  return result;
}

Status AttemptDriver::unknown_to_launcher(LiveJob& live) {
  const AttemptRecord& attempt = live.attempt->record;
  if (attempt.handle.empty() && !attempt.doom) {
    live.attempt->launch_due = true;
    return ok_status();
  }
  EMOE_RETURN_IF_ERROR(
      desk_.take_left_reports(live, attempt_dir(config_, attempt.job_id, attempt.number)));
  if (reported_success(live.record.job, attempt)) return end(live, {});
  return end_with(live, Finding::engine_forgot,
                  "the attempt's processes were gone when the coordinator looked for them");
}

Status AttemptDriver::follow(LiveJob& live, const launcher::AttemptStatus& status, SteadyTime now) {
  const AttemptRecord& attempt = live.attempt->record;
  if (status.phase == launcher::AttemptPhase::ended) {
    EMOE_RETURN_IF_ERROR(
        desk_.take_left_reports(live, attempt_dir(config_, attempt.job_id, attempt.number)));
    return word_of_rank0_missing(live, status.end, now) ? ok_status() : end(live, status.end);
  }
  if (status.phase == launcher::AttemptPhase::running) EMOE_RETURN_IF_ERROR(observe(live, now));
  return attempt.doom ? remove(live, now) : ok_status();
}

bool AttemptDriver::word_of_rank0_missing(LiveJob& live, const launcher::AttemptEnd& end,
                                          SteadyTime now) {
  const AttemptRecord& attempt = live.attempt->record;
  if (end.exit_code != 0 || end.signal != 0 || attempt.doom || attempt.end_code) return false;
  if (!live.attempt->end_seen) live.attempt->end_seen = now;
  return now - *live.attempt->end_seen < kLastWord;
}

Status AttemptDriver::observe(LiveJob& live, SteadyTime now) {
  const AttemptRecord& attempt = live.attempt->record;
  if (attempt.doom) return ok_status();
  const auto& max_runtime = live.record.job.resolved_spec().resources().max_runtime();
  const auto limit =
      std::chrono::seconds(max_runtime.seconds()) + std::chrono::nanoseconds(max_runtime.nanos());
  if (limit.count() > 0 && live.record.run_time >= limit) {
    return doom(live, Finding::max_runtime,
                absl::StrCat("resources.max_runtime of ",
                             std::chrono::duration<double>(limit).count(), " s is over"));
  }
  if (attempt.fault_code) {
    // A rank said why it fails; the others should follow at once. Its word stands, so no doom.
    if (!live.attempt->fault_seen) live.attempt->fault_seen = now;
    if (now - *live.attempt->fault_seen >= config_.stop_grace) kill(live, now);
    return ok_status();
  }
  if (const auto alarm = live.attempt->monitor->check(now)) {
    return doom(live, alarm->finding, alarm->message);
  }
  return ok_status();
}

Status AttemptDriver::doom(LiveJob& live, Finding finding, const std::string& message) {
  JobEdit edit(live, clock_);
  edit.attempt().doom = finding;
  edit.attempt().doom_message = message;
  const Verdict verdict = judge({.finding = finding});
  if (verdict.action == RetryAction::retry && may_retry(edit.record(), 1)) {
    EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::attempt_lost, verdict.reason, message));
  } else {
    edit.log(v1::LogMessage::ERROR, message);
  }
  EMOE_RETURN_IF_ERROR(book_.commit(live, std::move(edit)));
  log_warning("job %s: attempt %d must go: %s", live.record.job.id(), live.attempt->record.number,
              message);
  return ok_status();
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
Status AttemptDriver::remove(LiveJob& live, SteadyTime now) {
  const Finding finding = *live.attempt->record.doom;
  if (finding != Finding::cancelled && finding != Finding::max_runtime) {
    kill(live, now);
    return ok_status();
  }
  if (!live.attempt->stopping_since) {
    live.attempt->stopping_since = now;
    SessionDesk::command(
        live, finding == Finding::cancelled ? RankCommand::stop : RankCommand::checkpoint_and_stop);
  }
  const auto waited = now - *live.attempt->stopping_since;
  if (waited >= config_.stop_grace) {
    kill(live, now);
  } else if (!live.attempt->asked_launcher &&
             (needs_signal(*live.attempt) || waited >= config_.stop_grace / 2)) {
    live.attempt->asked_launcher = true;
    failures_.note("job " + live.record.job.id() + ": stop",
                   launcher_.stop(handle_of(live), launcher::StopMode::graceful));
  }
  return ok_status();
}

void AttemptDriver::kill(LiveJob& live, SteadyTime now) {
  if (live.attempt->last_kill && now - *live.attempt->last_kill < kKillAgain) return;
  live.attempt->last_kill = now;
  failures_.note("job " + live.record.job.id() + ": kill",
                 launcher_.stop(handle_of(live), launcher::StopMode::kill));
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
  keep_pause(live);
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
  int& idle = edit.record().idle_requeues;
  if (edit.tally().begun) {
    idle = 0;
  } else if (!counted) {
    ++idle;
  }
  edit.record().not_before =
      clock_.wall_now() +
      retry_pause(config_.retry_pause, counted ? edit.record().failures : std::max(idle, 1));
  return edit.apply(JobEvent::attempt_gone, verdict.reason, message);
}

}  // namespace emoe::server
