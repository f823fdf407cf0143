#include "server/control/controller.h"

#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "base/id.h"
#include "base/log.h"
#include "server/job/errors.h"

namespace emoe::server {

Controller::Controller(ControlConfig config, JobStore& store, launcher::Launcher& launcher,
                       const Clock& clock, CoordinatorProbe& probe)
    : config_(std::move(config)),
      store_(store),
      clock_(clock),
      probe_(probe),
      book_(store, clock,
            [this](const std::string& id) {
              if (listener_) listener_(id);
            }),
      desk_(book_, store, clock, probe),
      driver_(config_, book_, desk_, launcher, clock, probe) {}

Status Controller::recover() {
  const std::lock_guard lock(mutex_);
  EMOE_RETURN_IF_ERROR(book_.load());
  for (auto& [id, live] : book_.jobs()) {
    if (live.attempt) driver_.adopt(live);
  }
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
  std::vector<SessionMessage> messages;
  {
    const std::lock_guard lock(inbox_mutex_);
    messages.swap(inbox_);
  }
  const std::lock_guard lock(mutex_);
  const SteadyTime now = clock_.steady_now();
  if (last_step_) {
    const double seconds = std::chrono::duration<double>(now - *last_step_).count();
    probe_.add_held(seconds * slots_used_locked());
  }
  last_step_ = now;
  desk_.process(std::move(messages));
  for (auto& [id, live] : book_.jobs()) {
    if (!live.attempt) continue;
    if (const Status status = driver_.drive(live); !status.ok()) {
      log_error("job %s: %s", id, std::string(status.message()));
    }
  }
  book_.drop_ended();
  schedule_locked();
  book_.drop_ended();
  publish_locked();
}

void Controller::schedule_locked() {
  std::vector<QueuedJob> queued;
  std::vector<RunningJob> running;
  for (const auto& [id, live] : book_.jobs()) {
    const v1::Job& job = live.record.job;
    const int ranks = job.resolved_spec().parallel().ranks();
    if (holds_slots(job.state())) {
      running.push_back({id, ranks});
    } else if (job.state() == v1::QUEUED) {
      queued.push_back(
          {id, ranks, job.priority(), to_wall_time(job.create_time()), live.record.not_before});
    }
  }
  const Schedule plan =
      schedule(std::move(queued), running, config_.slots_total, clock_.wall_now());
  for (const std::string& id : plan.start) {
    if (const Status status = driver_.start(*book_.find(id)); !status.ok()) {
      log_error("job %s: %s", id, std::string(status.message()));
    }
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
  auto record = store_.job(id);
  if (record.status().code() == StatusCode::kNotFound) return job_not_found(id);
  if (!record.ok()) return store_failed(record.status());
  decorate(record->job);
  return std::move(record->job);
}

}  // namespace emoe::server
