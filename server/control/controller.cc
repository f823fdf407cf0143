#include "server/control/controller.h"

#include <absl/strings/str_cat.h>
#include <pthread.h>

namespace emoe::server {

Controller::Controller(ControlConfig config, JobStore& store, launcher::Launcher& launcher,
                       const Clock& clock, CoordinatorProbe& probe)
    : config_(std::move(config)),
      store_(store),
      clock_(clock),
      probe_(probe),
      failures_(clock),
      book_(store, clock,
            [this](const std::string& id) {
              if (listener_) listener_(id);
            }),
      desk_(book_, store, clock, probe, failures_),
      driver_(config_, book_, desk_, store, launcher, clock, probe, failures_) {}

Status Controller::recover() {
  const std::lock_guard lock(mutex_);
  EMOE_RETURN_IF_ERROR(book_.load());
  for (auto& [id, live] : book_.jobs()) EMOE_RETURN_IF_ERROR(driver_.adopt(live));
  EMOE_RETURN_IF_ERROR(show_checkpoints_locked());
  auto leftovers =
      DiscardedFolders::leftovers({config_.output_root, AttemptDriver::jobs_dir(config_)});
  if (leftovers.empty()) return ok_status();
  cleaner_ = std::jthread([leftovers](const std::stop_token& stop) mutable {
    pthread_setname_np(pthread_self(), "cleaner");
    leftovers.remove(stop);
  });
  return ok_status();
}

Status Controller::show_checkpoints_locked() {
  EMOE_ASSIGN_OR_RETURN(const auto checkpoints, store_.last_checkpoints());
  for (const auto& [id, info] : checkpoints) probe_.checkpointed(id, info);
  return ok_status();
}

void Controller::set_coordinator_address(std::string address) {
  const std::lock_guard lock(mutex_);
  driver_.set_coordinator_address(std::move(address));
}

void Controller::set_listener(std::function<void(const std::string&)> listener) {
  const std::lock_guard lock(mutex_);
  listener_ = std::move(listener);
}

void Controller::post(SessionMessage message) {
  const std::lock_guard lock(inbox_mutex_);
  inbox_.push_back(std::move(message));
  inbox_filled_.notify_one();
}

void Controller::poke() {
  const std::lock_guard lock(inbox_mutex_);
  poked_ = true;
  inbox_filled_.notify_one();
}

void Controller::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    step();
    std::unique_lock lock(inbox_mutex_);
    inbox_filled_.wait_for(lock, stop, config_.poll_interval,
                           [this] { return !inbox_.empty() || poked_; });
    poked_ = false;
  }
}

void Controller::step() {
  std::vector<PendingLaunch> launches;
  {
    const std::lock_guard lock(mutex_);
    launches = begin_round_locked();
  }
  std::vector<LaunchOutcome> outcomes;
  for (const PendingLaunch& launch : launches) outcomes.push_back(driver_.launch(launch));
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < launches.size(); ++i) {
    LiveJob& live = *launches[i].live;
    failures_.note("job " + launches[i].request.job_id, driver_.launched(live, outcomes[i]));
  }
  book_.drop_ended();
  publish_locked();
}

std::vector<PendingLaunch> Controller::begin_round_locked() {
  // The time first, then the messages: a heartbeat that is not among them came after `now`, and no
  // rank is called silent for the time that its heartbeats lay in the inbox.
  const SteadyTime now = clock_.steady_now();
  std::vector<SessionMessage> messages;
  {
    const std::lock_guard lock(inbox_mutex_);
    messages.swap(inbox_);
  }
  pass_time_locked(now);
  desk_.process(std::move(messages), now);
  for (auto& [id, live] : book_.jobs()) drive_locked(live, now);
  book_.drop_ended();
  schedule_locked(now);
  std::vector<PendingLaunch> launches;
  for (auto& [id, live] : book_.jobs()) {
    if (auto launch = driver_.pending_launch(live)) launches.push_back(*std::move(launch));
  }
  return launches;
}

void Controller::pass_time_locked(SteadyTime now) {
  const auto gap = last_step_ ? now - *last_step_ : SteadyTime::duration::zero();
  last_step_ = now;
  probe_.add_held(std::chrono::duration<double>(gap).count() * slots_used_locked());
  // A coordinator that stood still heard nobody: the ranks are given that time back.
  const bool stood_still = gap > config_.session_timeout / 2;
  for (auto& [id, live] : book_.jobs()) {
    if (!live.attempt) continue;
    live.record.run_time += gap;
    if (!stood_still) continue;
    live.attempt->monitor->forgive(gap, now);
    if (live.attempt->end_seen) live.attempt->end_seen = now;
  }
}

void Controller::drive_locked(LiveJob& live, SteadyTime now) {
  if (!live.attempt) return;
  const std::string what = "job " + live.record.job.id();
  failures_.note(what, driver_.drive(live, now));
}

void Controller::schedule_locked(SteadyTime now) {
  std::vector<QueuedJob> queued;
  std::vector<RunningJob> running;
  for (const auto& [id, live] : book_.jobs()) {
    const v1::Job& job = live.record.job;
    const int ranks = job.resolved_spec().parallel().ranks();
    if (holds_slots(job.state())) {
      running.push_back({id, ranks});
    } else if (job.state() == v1::QUEUED) {
      queued.push_back(
          {id, ranks, job.priority(), to_wall_time(job.create_time()), live.resume_at});
    }
  }
  const Schedule plan = schedule(std::move(queued), running, config_.slots_total, now);
  for (const std::string& id : plan.start) {
    LiveJob& live = *book_.find(id);
    failures_.note("job " + id, driver_.start(live));
    drive_locked(live, now);
  }
  waiting_.clear();
  for (const Waiting& waiting : plan.waiting) waiting_[waiting.id] = waiting;
}

int Controller::slots_used_locked() {
  int used = 0;
  for (const auto& [id, live] : book_.jobs()) {
    const v1::Job& job = live.record.job;
    if (holds_slots(job.state())) used += job.resolved_spec().parallel().ranks();
  }
  return used;
}

void Controller::publish_locked() {
  if (const auto counts = store_.count_by_state(); counts.ok()) probe_.jobs(*counts);
  probe_.slots(slots_used_locked(), config_.slots_total);
}

Controller::Slots Controller::slots() {
  const std::lock_guard lock(mutex_);
  return {config_.slots_total, std::max(config_.slots_total - slots_used_locked(), 0)};
}

std::vector<Controller::Target> Controller::targets() {
  const std::lock_guard lock(mutex_);
  std::vector<Target> targets;
  for (const auto& [id, live] : book_.jobs()) {
    if (!live.attempt) continue;
    for (const auto& [rank, link] : live.attempt->links) {
      const v1::RankInfo* info = live.attempt->monitor->info(rank);
      if (info == nullptr || info->metrics_address().empty()) continue;
      targets.push_back({info->metrics_address(), id, rank});
    }
  }
  return targets;
}

void Controller::decorate(v1::Job& job) {
  if (job.state() != v1::QUEUED) return;
  const std::lock_guard lock(mutex_);
  const auto found = waiting_.find(job.id());
  if (found == waiting_.end()) return;
  job.set_queue_position(found->second.position);
  const std::string last = job.message();
  job.set_message(found->second.message);
  if (!last.empty()) job.set_message(absl::StrCat(job.message(), "; last attempt: ", last));
}

Result<v1::Job> Controller::get(const std::string& id) {
  EMOE_ASSIGN_OR_RETURN(JobRecord record, store_.job(id));
  decorate(record.job);
  return std::move(record.job);
}

}  // namespace emoe::server
