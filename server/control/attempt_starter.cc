#include "server/control/attempt_starter.h"

#include <algorithm>
#include <utility>

#include "base/id.h"
#include "base/log.h"

namespace emoe::server {
namespace {

// Attempts that a job shows, the newest; the store has a row of each.
constexpr int kShownAttempts = 20;

}  // namespace

launcher::Resources resources_of(const v1::Job& job) {
  return {.cpus = job.resolved_spec().parallel().ranks()};
}

std::unique_ptr<AttemptMonitor> AttemptStarter::make_monitor(const LiveJob& live,
                                                             bool adopted) const {
  AttemptMonitor::Config config;
  config.ranks = live.record.job.resolved_spec().parallel().ranks();
  config.join_timeout = parts_.config.join_timeout;
  config.session_timeout = parts_.config.session_timeout;
  config.progress_timeout = parts_.config.progress_timeout;
  return std::make_unique<AttemptMonitor>(config, parts_.clock.steady_now(), adopted);
}

Status AttemptStarter::start(LiveJob& live) {
  JobEdit edit(live, parts_.clock);
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
  *shown.mutable_start_time() = to_timestamp(parts_.clock.wall_now());
  if (first) *edit.job().mutable_start_time() = shown.start_time();
  edit.job().mutable_progress()->clear_phase();  // of the attempt before
  edit.job().mutable_progress()->clear_phase_percent();
  auto& all = *edit.job().mutable_attempts();
  all.DeleteSubrange(0, std::max(all.size() - kShownAttempts, 0));
  edit.record().not_before.reset();
  EMOE_RETURN_IF_ERROR(parts_.jobs.commit(live, std::move(edit)));

  live.attempt = std::make_unique<LiveAttempt>();
  live.attempt->record = attempt;
  live.attempt->monitor = make_monitor(live, false);
  live.resume_at.reset();
  parts_.probe.attempt_started(first ? "first" : to_string(last));
  if (first) {
    const auto created = to_wall_time(live.record.job.create_time());
    parts_.probe.job_started(
        std::chrono::duration<double>(parts_.clock.wall_now() - created).count());
  }
  return ok_status();
}

Status AttemptStarter::adopt(LiveJob& live) {
  live.resume_at = end_of_pause(live.record, parts_.config, parts_.clock);
  if (!live.attempt) return ok_status();
  const AttemptRecord& attempt = live.attempt->record;
  EMOE_ASSIGN_OR_RETURN(live.attempt->steps.begun,
                        parts_.store.has_steps(attempt.job_id, attempt.number));
  live.attempt->monitor = make_monitor(live, !attempt.handle.empty());
  log_info("job %s: attempt %d taken up again in state %s", attempt.job_id, attempt.number,
           to_string(live.record.job.state()));
  return ok_status();
}

}  // namespace emoe::server
