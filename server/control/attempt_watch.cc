#include "server/control/attempt_watch.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <google/protobuf/util/time_util.h>

#include "base/attempt_contract.h"
#include "base/file.h"
#include "base/log.h"
#include "config/config.h"
#include "config/duration.h"
#include "server/control/attempt_starter.h"
#include "server/job/job_warnings.h"

namespace emoe::server {
namespace {

// How long rank 0's End report may come after the exit of its process.
constexpr std::chrono::seconds kFinalReportDelay{5};
constexpr std::chrono::seconds kKillAgain{1};

// Ranks with a session receive its commands; ranks that reported their end need none.
bool needs_signal(const LiveAttempt& attempt) {
  return attempt.links.empty() && !attempt.monitor->all_ended();
}

// The processes ended well, but rank 0's End report has not come yet.
bool awaits_final_report(const AttemptRecord& attempt, const launcher::AttemptEnd& end) {
  return end.cause == launcher::EndCause::ranks && end.exit_code == 0 && end.signal == 0 &&
         !attempt.stop_reason && !attempt.end_code;
}

Finding finding_of_launch(StatusCode code) {
  const bool later = code == StatusCode::kResourceExhausted || code == StatusCode::kUnavailable;
  if (later) return Finding::engine_busy;
  const bool refused = code == StatusCode::kFailedPrecondition || code == StatusCode::kNotFound ||
                       code == StatusCode::kInvalidArgument;
  return refused ? Finding::launch_refused : Finding::join_timeout;
}

int threads_of(const ControlConfig& config, const v1::Job& job) {
  const int wanted = job.resolved_spec().resources().threads_per_rank();
  return wanted > 0 ? wanted : threads_of(config);
}

launcher::QueueOptions queue_options(const v1::SlurmOptions& options) {
  return {.partition = options.partition(),
          .account = options.account(),
          .qos = options.qos(),
          .constraint = options.constraint(),
          .ranks_per_node = options.ranks_per_node(),
          .gpus_per_rank = options.gpus_per_rank(),
          .time_limit = std::chrono::seconds(
              google::protobuf::util::TimeUtil::DurationToSeconds(options.time_limit())),
          .extra_args = {options.extra_args().begin(), options.extra_args().end()}};
}

launcher::PodOptions pod_options(const v1::KubernetesOptions& options) {
  return {.queue = options.queue(),
          .image = options.image(),
          .ranks_per_pod = options.ranks_per_pod(),
          .gpus_per_rank = options.gpus_per_rank(),
          .memory_per_rank = options.memory_per_rank(),
          .shm_size = options.shm_size()};
}

launcher::LaunchRequest launch_request(const ControlConfig& config, const v1::Job& job,
                                       const AttemptRecord& attempt, const std::string& address) {
  launcher::LaunchRequest request;
  request.job_id = job.id();
  request.attempt = attempt.number;
  request.ranks = ranks_of(job);
  request.threads_per_rank = threads_of(config, job);
  request.resources = holding_of(job).holds;
  request.placement = holding_of(job).placement;
  request.queue = queue_options(job.resolved_spec().resources().slurm());
  request.pods = pod_options(job.resolved_spec().resources().kubernetes());
  request.attempt_dir = config.attempt_dir(job.id(), attempt.number);
  request.worker_argv = {config.worker_program.string(), "run", config.spec_file(job.id()).string(),
                         "--out", job.output_dir()};
  if (job.has_export_of()) {
    request.worker_argv.insert(request.worker_argv.end(),
                               {"--export-checkpoint", job.export_of().checkpoint_dir()});
  }
  const auto grace = std::chrono::ceil<std::chrono::seconds>(config.reconnect_grace);
  request.environment = config.rank_environment;
  request.environment[kCoordinatorVariable] = address;
  request.environment[kAttemptTokenVariable] = attempt.token;
  request.environment[kReconnectGraceVariable] = absl::StrCat(grace.count());
  if (!config.ranks_ca.empty()) request.environment[kTlsCaVariable] = config.ranks_ca;
  if (!config.ranks_certificate.empty()) {
    request.environment[kTlsCertificateVariable] = config.ranks_certificate;
    request.environment[kTlsKeyVariable] = config.ranks_key;
  }
  if (job.allowed_roots_size() > 0) {
    request.environment[kAllowedRootsVariable] = absl::StrJoin(job.allowed_roots(), ":");
  }
  if (job.has_export_of()) {  // what the training has prepared is not prepared again
    const std::filesystem::path training =
        std::filesystem::path(job.output_dir()).parent_path().parent_path();
    request.environment[kCacheVariable] = (training / kCacheFolder).string();
  }
  return request;
}

}  // namespace

Status AttemptWatch::look(LiveJob& live, SteadyTime now) {
  const auto view = parts_.launcher.view(parts_.handle_of(live));
  if (!view) hand_over(live);
  const AttemptRecord& attempt = live.attempt->record;
  if (!view || !view->status) {
    if (attempt.stop_reason) take_down(live, now);
    return ok_status();
  }
  const std::string job = "job " + attempt.job_id;
  parts_.failures.note(job + ": stop", view->stop);
  const Result<launcher::AttemptStatus>& status = *view->status;
  const bool gone = status.status().code() == StatusCode::kNotFound;
  if (!view->launch.ok() && !attempt.stop_reason)
    return after_failed_launch(live, view->launch, !gone);
  if (gone) return after_vanishing(live);
  parts_.failures.note(job, status.status());
  // A handle that could not be stored is no reason not to look after the attempt.
  Status result = status.ok() && attempt.handle.empty() ? confirm(live) : ok_status();
  const auto phase = status.ok() ? status->phase : launcher::AttemptPhase::unknown;
  if (phase == launcher::AttemptPhase::ended) {
    result.Update(after_end(live, status->end, now));
    return result;
  }
  // Before it is launched the engine must say that it does not know it: why it does not is what it
  // waits for.
  if (status.ok() || !attempt.handle.empty()) {
    live.attempt->waiting = status.ok() ? status->waiting : "";
  } else {
    live.attempt->waiting = std::string(status.status().message());
  }
  // Ranks that may not be there yet have their time to join still before them.
  if ((status.ok() || attempt.handle.empty()) && phase != launcher::AttemptPhase::running) {
    live.attempt->monitor->not_started(now);
  }
  if (status.ok() && !attempt.stop_reason) result.Update(check_room(live, *status, now));
  if (phase == launcher::AttemptPhase::running) result.Update(check(live, now));
  if (attempt.stop_reason) take_down(live, now);
  return result;
}

void AttemptWatch::hand_over(const LiveJob& live) {
  const v1::Job& job = live.record.job;
  const AttemptRecord& attempt = live.attempt->record;
  const launcher::LaunchHandle handle = parts_.handle_of(live);
  if (!attempt.handle.empty() || attempt.stop_reason) {
    parts_.launcher.watch(handle);
    return;
  }
  auto request = launch_request(parts_.config, job, attempt, address_);
  request.checkpoint_time = slowest_checkpoint(job.id());
  parts_.launcher.launch(
      handle, request,
      [folder = request.attempt_dir, file = parts_.config.spec_file(job.id()),
       spec = job.resolved_spec(), warnings = warnings_json(job)] {
        EMOE_RETURN_IF_ERROR(emoe::create_directories(folder));
        EMOE_RETURN_IF_ERROR(write_file_atomically(file.parent_path() / kWarningsFile, warnings));
        return write_file_atomically(file, config::message_to_yaml(spec));
      });
}

// Of all of the job's attempts; 0 where there is none.
std::chrono::duration<double> AttemptWatch::slowest_checkpoint(const std::string& job_id) const {
  double slowest = 0;
  const auto checkpoints = parts_.store.checkpoints(job_id, std::numeric_limits<int64_t>::max());
  if (!checkpoints.ok()) return {};
  for (const v1::CheckpointInfo& info : *checkpoints) slowest = std::max(slowest, info.seconds());
  return std::chrono::duration<double>(slowest);
}

Status AttemptWatch::confirm(LiveJob& live) {
  JobEdit edit(live, parts_.clock);
  edit.attempt().handle = parts_.handle_of(live).text;
  log_info("job %s: attempt %d launched as %s", live.record.job.id(), live.attempt->record.number,
           edit.attempt().handle);
  return parts_.jobs.commit(live, std::move(edit));
}

Status AttemptWatch::after_failed_launch(LiveJob& live, const Status& failure, bool left) {
  const std::string message = "launch: " + std::string(failure.message());
  const Finding finding = finding_of_launch(failure.code());
  // Only an attempt of which the launcher knows nothing has surely no process.
  if (left) return give_up(live, finding, message);
  const bool machine = failure.code() == StatusCode::kDataLoss;
  return machine ? settlement_.settle_machine_error(live, message)
                 : settlement_.settle_without_end(live, finding, message);
}

Status AttemptWatch::after_vanishing(LiveJob& live) {
  const AttemptRecord& attempt = live.attempt->record;
  EMOE_RETURN_IF_ERROR(parts_.sessions.take_left_reports(live, parts_.attempt_dir(live)));
  if (reported_success(live.record.job, attempt)) return settlement_.settle_end(live, {});
  return settlement_.settle_without_end(
      live, Finding::engine_forgot,
      "the attempt's processes were gone when the coordinator looked for them");
}

Status AttemptWatch::after_end(LiveJob& live, const launcher::AttemptEnd& end, SteadyTime now) {
  const AttemptRecord& attempt = live.attempt->record;
  EMOE_RETURN_IF_ERROR(parts_.sessions.take_left_reports(live, parts_.attempt_dir(live)));
  if (awaits_final_report(attempt, end)) {
    if (!live.attempt->end_seen) live.attempt->end_seen = now;
    if (now - *live.attempt->end_seen < kFinalReportDelay) return ok_status();
  }
  return settlement_.settle_end(live, end);
}

Status AttemptWatch::check(LiveJob& live, SteadyTime now) {
  const AttemptRecord& attempt = live.attempt->record;
  if (live.attempt->monitor->all_joined()) {
    for (const auto& part : holding_of(live.record.job).placement) parts_.hosts.worked(part.host);
  }
  if (attempt.stop_reason) return ok_status();
  const auto& given = live.record.job.resolved_spec().resources().max_runtime();
  const std::chrono::nanoseconds limit(
      google::protobuf::util::TimeUtil::DurationToNanoseconds(given));
  if (limit.count() > 0 && live.record.run_time >= limit) {
    return give_up(
        live, Finding::max_runtime,
        absl::StrCat("resources.max_runtime of ", config::format_duration(given), " is over"));
  }
  if (attempt.fault_code) {
    // A rank said why it fails; the others should follow at once. Its word stands as the cause.
    if (!live.attempt->fault_seen) live.attempt->fault_seen = now;
    if (now - *live.attempt->fault_seen >= parts_.config.stop_grace) kill(live, now);
    return ok_status();
  }
  if (const auto alarm = live.attempt->monitor->check(now)) {
    std::string message = alarm->message;
    if (alarm->finding == Finding::join_timeout) {
      absl::StrAppend(&message, "; they were told to connect to ", address_,
                      " (listen, or advertise where that is set)");
    }
    return give_up(live, alarm->finding, message);
  }
  return ok_status();
}

Status AttemptWatch::check_room(LiveJob& live, const launcher::AttemptStatus& status,
                                SteadyTime now) {
  auto& since = live.attempt->no_room_since;
  if (status.phase == launcher::AttemptPhase::unknown) return ok_status();
  if (!status.no_room) since.reset();
  const int ranks = ranks_of(live.record.job);
  const auto fewer = fewer_ranks(needs_of(live.record.job, parts_.config), ranks, status.room);
  if (!status.no_room || !fewer) return ok_status();
  if (!since) since = now;
  const auto left =
      std::chrono::ceil<std::chrono::seconds>(*since + parts_.config.elastic_wait - now);
  if (left.count() > 0) {
    absl::StrAppend(&live.attempt->waiting, "; starts with ", *fewer, " of ", ranks, " ranks in ",
                    left.count(), " s");
    return ok_status();
  }
  return give_up(
      live, Finding::no_room,
      absl::StrCat("there is no room for ", ranks, " ranks, the next attempt starts with ", *fewer,
                   ": ", status.waiting),
      *fewer);
}

Status AttemptWatch::give_up(LiveJob& live, Finding finding, const std::string& message,
                             int next_ranks) {
  JobEdit edit(live, parts_.clock);
  edit.attempt().stop_reason = finding;
  edit.attempt().stop_message = message;
  if (next_ranks > 0) edit.public_attempt().set_next_world_size(next_ranks);
  const Verdict verdict = judge({.finding = finding});
  const bool again = verdict.action == RetryAction::requeue_uncounted ||
                     (verdict.action == RetryAction::retry && may_retry(edit.record(), 1));
  if (again) {
    EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::attempt_lost, verdict.reason, message));
  } else {
    edit.log(v1::LogMessage::ERROR, message);
  }
  EMOE_RETURN_IF_ERROR(parts_.jobs.commit(live, std::move(edit)));
  log_warning("job %s: attempt %d must go: %s", live.record.job.id(), live.attempt->record.number,
              message);
  return ok_status();
}

Status AttemptWatch::cancel(LiveJob& live, JobEdit edit) {
  EMOE_RETURN_IF_ERROR(
      edit.apply(JobEvent::cancel_requested, v1::REASON_CANCELLED, edit.record().cancel_message));
  edit.attempt().stop_reason = Finding::cancelled;
  edit.attempt().stop_message = edit.record().cancel_message;
  return parts_.jobs.commit(live, std::move(edit));
}

Status AttemptWatch::pause(LiveJob& live, JobEdit edit) {
  const std::string message = "paused by a client";
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::pause_requested, v1::REASON_PAUSED, message));
  if (!edit.attempt().stop_reason) {
    edit.attempt().stop_reason = Finding::paused;
    edit.attempt().stop_message = message;
  }
  return parts_.jobs.commit(live, std::move(edit));
}

Status AttemptWatch::displace(LiveJob& live, const std::string& message) {
  JobEdit edit(live, parts_.clock);
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::attempt_lost, v1::REASON_PREEMPTED, message));
  edit.attempt().stop_reason = Finding::displaced;
  edit.attempt().stop_message = message;
  EMOE_RETURN_IF_ERROR(parts_.jobs.commit(live, std::move(edit)));
  log_info("job %s: attempt %d makes room: %s", live.record.job.id(), live.attempt->record.number,
           message);
  return ok_status();
}

// Its ranks are lost or hang, or one has failed and the others do not follow.
bool AttemptWatch::is_stuck(LiveJob& live, SteadyTime now) const {
  if (live.attempt->monitor->check(now)) return true;
  if (!live.attempt->record.fault_code) return false;
  if (!live.attempt->fault_seen) live.attempt->fault_seen = now;
  return now - *live.attempt->fault_seen >= parts_.config.stop_grace;
}

// An attempt that can still listen is asked first: by its sessions, then by the launcher's signal,
// and killed after stop_grace, or where it leaves at its step edge when it will not get there; one
// that hangs or is in pieces is killed at once.
void AttemptWatch::take_down(LiveJob& live, SteadyTime now) {
  const Finding finding = *live.attempt->record.stop_reason;
  if (!stop_command(finding)) {
    kill(live, now);
    return;
  }
  if (!live.attempt->stopping_since) {
    live.attempt->stopping_since = now;
    SessionManager::command_stop(live);
  }
  const auto waited = now - *live.attempt->stopping_since;
  const bool patient = leaves_at_step_edge(finding);
  if (patient ? is_stuck(live, now) : waited >= parts_.config.stop_grace) {
    kill(live, now);
  } else if (!live.attempt->asked_launcher &&
             (needs_signal(*live.attempt) || waited >= parts_.config.stop_grace / 2)) {
    live.attempt->asked_launcher = true;
    parts_.launcher.stop(parts_.handle_of(live), launcher::StopMode::graceful);
  }
}

void AttemptWatch::kill(LiveJob& live, SteadyTime now) {
  if (live.attempt->last_kill && now - *live.attempt->last_kill < kKillAgain) return;
  live.attempt->last_kill = now;
  parts_.launcher.stop(parts_.handle_of(live), launcher::StopMode::kill);
}

}  // namespace emoe::server
