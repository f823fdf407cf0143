#include "server/control/attempt_starter.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "base/id.h"
#include "base/log.h"

namespace emoe::server {
namespace {

// Attempts that a job shows, the newest; the store has a row of each.
constexpr int kShownAttempts = 20;

void show_start(const Start& start, v1::Attempt& shown) {
  shown.set_world_size(start.ranks);
  for (const launcher::HostRanks& part : start.placement) {
    v1::HostRanks& added = *shown.add_placement();
    added.set_host(part.host);
    added.set_ranks(part.ranks);
    added.mutable_gpus()->Add(part.gpus.begin(), part.gpus.end());
  }
}

std::string fewer_ranks_text(const Start& start, const v1::Job& job) {
  const int wanted = job.resolved_spec().parallel().ranks();
  if (start.ranks == wanted) return "";
  return absl::StrCat("runs with ", start.ranks, " of ", wanted,
                      " ranks: there are no slots for more now");
}

}  // namespace

RunningJob holding_of(const v1::Job& job) {
  RunningJob holding{.id = job.id(),
                     .holds = {.cpus = ranks_of(job)},
                     .placement = {},
                     .priority = job.priority(),
                     .project = job.project()};
  if (job.attempts().empty()) return holding;
  holding.placement = placement_of(*job.attempts().rbegin());
  for (const auto& part : holding.placement) {
    holding.holds.gpus += static_cast<int64_t>(part.gpus.size());
  }
  return holding;
}

std::vector<launcher::HostRanks> placement_of(const v1::Attempt& attempt) {
  std::vector<launcher::HostRanks> placement;
  for (const v1::HostRanks& part : attempt.placement()) {
    placement.push_back({part.host(), part.ranks(), {part.gpus().begin(), part.gpus().end()}});
  }
  return placement;
}

std::unique_ptr<AttemptMonitor> AttemptStarter::make_monitor(const LiveJob& live,
                                                             bool adopted) const {
  AttemptMonitor::Config config;
  config.ranks = ranks_of(live.record.job);
  config.join_timeout = parts_.config.join_timeout;
  config.session_timeout = parts_.config.session_timeout;
  config.progress_timeout = parts_.config.progress_timeout;
  return std::make_unique<AttemptMonitor>(config, parts_.clock.steady_now(), adopted);
}

Status AttemptStarter::start(LiveJob& live, const Start& start) {
  JobEdit edit(live, parts_.clock);
  AttemptRecord attempt;
  attempt.job_id = edit.job().id();
  attempt.number = newest_attempt(edit.job()) + 1;
  const bool first = attempt.number == 1;
  attempt.token = random_hex(16);
  const v1::Reason last = first ? v1::REASON_UNSPECIFIED : edit.public_attempt().reason();
  edit.set_attempt(attempt);
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::slots_granted, v1::REASON_UNSPECIFIED,
                                  fewer_ranks_text(start, edit.current())));
  v1::Attempt& shown = *edit.job().add_attempts();
  shown.set_number(attempt.number);
  show_start(start, shown);
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
  live.full_until.reset();
  parts_.probe.attempt_started(first ? "first" : to_string(last));
  if (first) {
    const auto created = to_wall_time(live.record.job.create_time());
    parts_.probe.job_started(
        std::chrono::duration<double>(parts_.clock.wall_now() - created).count());
  }
  return ok_status();
}

Status AttemptStarter::adopt(LiveJob& live) {
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
