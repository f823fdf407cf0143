#include "server/control/controller.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <pthread.h>

#include "server/control/project_quota.h"
#include "server/scheduler/free_resources.h"

namespace emoe::server {
namespace {

// How long a job that runs will go on: by its plan, or where that is over or not known by its steps.
std::optional<double> seconds_left(const LiveJob& live) {
  const v1::Job& job = live.record.job;
  const double run = std::chrono::duration<double>(live.record.run_time).count();
  const double eta = job.progress().eta_seconds();
  if (job.plan().has_time()) return std::max(job.plan().time().seconds() - run, eta);
  return job.state() == v1::RUNNING && eta > 0 ? std::optional(eta) : std::nullopt;
}

// Whether something is said of such a job that only the controller knows.
bool is_decorated(const v1::Job& job) {
  return job.state() == v1::QUEUED || job.state() == v1::STARTING;
}

// Up to so many jobs in the queue are started in thought, one after the other, to say when the next one
// starts; of more, what they take in all is shared out among the slots.
constexpr int64_t kForecastJobs = 200;

}  // namespace

Controller::Controller(ControlConfig config, JobStore& store, launcher::AsyncLauncher& launcher,
                       const Clock& clock, CoordinatorProbe& probe)
    : config_(std::move(config)),
      store_(store),
      launcher_(launcher),
      clock_(clock),
      probe_(probe),
      failures_(clock),
      jobs_(config_, store, clock,
            [this](const std::string& id) {
              if (listener_) listener_(id);
            }),
      sessions_(jobs_, store, clock, probe, failures_),
      hosts_(config_),
      parts_{config_, jobs_, sessions_, store, launcher, clock, probe, failures_, hosts_},
      starter_(parts_),
      settlement_(parts_),
      watch_(parts_, settlement_) {
  launcher_.set_listener([this] { poke(); });
}

Status Controller::recover() {
  const std::lock_guard lock(mutex_);
  EMOE_RETURN_IF_ERROR(jobs_.load());
  for (auto& [id, live] : jobs_.all()) EMOE_RETURN_IF_ERROR(starter_.adopt(live));
  EMOE_ASSIGN_OR_RETURN(const auto checkpoints, store_.last_checkpoints());
  for (const auto& [id, info] : checkpoints) probe_.checkpointed(id, info);
  auto leftovers =
      DiscardedFolders::leftovers(config_.remove_folder, {config_.output_root, config_.jobs_dir()});
  if (leftovers.empty()) return ok_status();
  cleaner_ = std::jthread([leftovers](const std::stop_token& stop) mutable {
    pthread_setname_np(pthread_self(), "cleaner");
    leftovers.remove(stop);
  });
  return ok_status();
}

void Controller::set_coordinator_address(std::string address) {
  const std::lock_guard lock(mutex_);
  watch_.set_coordinator_address(std::move(address));
}

std::string Controller::coordinator_address() {
  const std::lock_guard lock(mutex_);
  return watch_.coordinator_address();
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
  const std::lock_guard lock(mutex_);
  // The time first, then the messages: a heartbeat that is not among them came after `now`, and no
  // rank is called silent for the time that its heartbeats lay in the inbox.
  const SteadyTime now = clock_.steady_now();
  std::vector<SessionMessage> messages;
  {
    const std::lock_guard inbox_lock(inbox_mutex_);
    messages.swap(inbox_);
  }
  pass_time_locked(now);
  sessions_.process(messages, now);
  for (auto& [id, live] : jobs_.all()) look_at_attempt_locked(live, now);
  let_checkpoints_go_locked();
  jobs_.drop_idle();
  schedule_locked(now);
  probe_.jobs(jobs_.counts());
  probe_.slots(slots_used_locked(), slots_total());
}

void Controller::pass_time_locked(SteadyTime now) {
  const auto gap = last_step_ ? now - *last_step_ : SteadyTime::duration::zero();
  last_step_ = now;
  probe_.add_held(std::chrono::duration<double>(gap).count() * slots_used_locked());
  // A coordinator that stood still heard nobody: the ranks are given that time back.
  const bool stood_still = gap > config_.session_timeout / 2;
  for (auto& [id, live] : jobs_.all()) {
    if (!live.attempt) continue;
    if (live.attempt->waiting.empty()) live.record.run_time += gap;
    if (!stood_still) continue;
    live.attempt->monitor->forgive(gap, now);
    if (live.attempt->end_seen) live.attempt->end_seen = now;
  }
}

void Controller::look_at_attempt_locked(LiveJob& live, SteadyTime now) {
  if (live.attempt) failures_.note("job " + live.record.job.id(), watch_.look(live, now));
}

void Controller::schedule_locked(SteadyTime now) {
  Pool pool = hosts_.in_service(now);
  if (!config_.quotas.empty()) {
    pool.project_slots = [this](const std::string& project) {
      return quota_of(config_.quotas, project).slots;
    };
  }
  Decision plan = decide(jobs_.queue(), running_locked(), pool, now);
  for (const Start& start : plan.start) {
    const auto live = jobs_.wake(start.id);
    failures_.note("job " + start.id, live.ok() ? starter_.start(**live, start) : live.status());
    if (live.ok()) look_at_attempt_locked(**live, now);
  }
  for (const std::string& id : plan.displace) {
    const std::string message = "makes room for a job of higher priority; it goes on afterwards";
    failures_.note("job " + id, watch_.displace(*jobs_.find(id), message));
  }
  reasons_.emplace(std::move(plan.reasons));
}

void Controller::hide_foreign_jobs_locked(const v1::Job& job, std::string& message) {
  for (const auto& [id, live] : jobs_.all()) {
    if (live.record.job.project() == job.project()) continue;
    for (size_t at = message.find(id); at != std::string::npos; at = message.find(id, at)) {
      message.replace(at, id.size(), "a job of another project");
    }
  }
}

// A job that were displaced before its first step would only load, again and again.
bool Controller::has_had_its_run(const LiveJob& live) const {
  if (config_.min_run == std::chrono::milliseconds::zero()) return true;
  const v1::Job& job = live.record.job;
  const v1::Attempt& attempt = *job.attempts().rbegin();
  const bool counts_steps = job.resolved_spec().task() == "train" && !job.has_export_of();
  const bool waits = !live.attempt->waiting.empty();  // for the engine: there is nothing to lose
  const bool begun = attempt.has_first_step_time();
  if (counts_steps && !waits && !begun && !live.attempt->steps.begun) return false;
  const WallTime since = to_wall_time(begun ? attempt.first_step_time() : attempt.start_time());
  return clock_.wall_now() - since >= config_.min_run;
}

std::vector<RunningJob> Controller::running_locked() {
  std::vector<RunningJob> running;
  for (const auto& [id, live] : jobs_.all()) {
    const v1::JobState state = live.record.job.state();
    if (!holds_slots(state)) continue;
    RunningJob& job = running.emplace_back(holding_of(live.record.job));
    if (!live.attempt) continue;
    job.leaving = live.attempt->record.stop_reason.has_value();
    job.displaceable = config_.preempt && !job.leaving &&
                       (state == v1::STARTING || state == v1::RUNNING) && has_had_its_run(live);
  }
  return running;
}

int Controller::slots_used_locked() {
  int64_t used = 0;
  for (const RunningJob& job : running_locked()) used += job.holds.cpus;
  return static_cast<int>(used);
}

Controller::Slots Controller::slots() {
  const std::lock_guard lock(mutex_);
  const SteadyTime now = clock_.steady_now();
  const FreeResources free(hosts_.in_service(now), running_locked());
  Slots slots{slots_total(), static_cast<int>(free.amounts().cpus), {}};
  for (const Pool::Host& host : config_.hosts) {
    v1::HostInfo& info = slots.hosts.emplace_back();
    info.set_name(host.name);
    info.set_slots(host.slots);
    info.set_slots_free(free.slots_of(host.name));
    info.set_gpus(host.gpus);
    info.set_problem(hosts_.problem(host.name, now));
  }
  return slots;
}

std::map<v1::JobState, int> Controller::counts() {
  const std::lock_guard lock(mutex_);
  std::map<v1::JobState, int> counts = jobs_.counts();
  std::erase_if(counts, [](const auto& entry) { return entry.second == 0; });
  return counts;
}

std::vector<Controller::Target> Controller::targets() {
  const std::lock_guard lock(mutex_);
  std::vector<Target> targets;
  for (const auto& [id, live] : jobs_.all()) {
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
  if (!is_decorated(job)) return;
  const std::lock_guard lock(mutex_);
  decorate_locked(job);
}

void Controller::decorate(std::vector<v1::Job>& jobs) {
  if (std::ranges::none_of(jobs, is_decorated)) return;
  const std::lock_guard lock(mutex_);
  for (v1::Job& job : jobs) {
    if (is_decorated(job)) decorate_locked(job);
  }
}

void Controller::decorate_locked(v1::Job& job) {
  if (job.state() == v1::STARTING) {
    const LiveJob* live = jobs_.find(job.id());
    if (live != nullptr && live->attempt && !live->attempt->waiting.empty()) {
      job.set_message(live->attempt->waiting);
    }
    return;
  }
  const QueuePlace place = place_of(job);
  const auto queued = jobs_.queue().find(place);
  if (!queued || !reasons_) return;
  const int64_t position = jobs_.queue().ahead(place).jobs + 1;
  job.set_queue_position(static_cast<int32_t>(position));
  const std::string last = job.message();
  std::string why = reasons_->why(*queued, position);
  hide_foreign_jobs_locked(job, why);
  job.set_message(why);
  if (!last.empty()) job.set_message(absl::StrCat(job.message(), "; last attempt: ", last));
}

Result<launcher::LogTail> Controller::log(const std::string& id, int attempt, size_t bytes) {
  launcher::Launcher& engine = launcher_.direct();
  return engine.log(engine.handle_of(id, attempt, config_.attempt_dir(id, attempt)), bytes);
}

v1::QueuePlan Controller::queue_plan(const v1::JobSpec& resolved) {
  v1::Job job;
  *job.mutable_resolved_spec() = resolved;
  job.set_priority(resolved.resources().priority());
  const std::lock_guard lock(mutex_);
  *job.mutable_create_time() = to_timestamp(next_create_time_locked());
  return queue_plan_locked(job);
}

v1::QueuePlan Controller::queue_plan_locked(const v1::Job& job) {
  std::vector<ForecastJob> running;
  for (const auto& [id, live] : jobs_.all()) {
    const v1::Job& other = live.record.job;
    if (holds_slots(other.state())) running.push_back({ranks_of(other), seconds_left(live)});
  }
  const QueuePlace place = place_of(job);
  const QueueAhead ahead = jobs_.queue().ahead(place);
  v1::QueuePlan plan;
  plan.set_position(static_cast<int32_t>(ahead.jobs) + 1);
  plan.set_jobs_ahead(static_cast<int32_t>(ahead.jobs + static_cast<int64_t>(running.size())));
  const int slots = job.resolved_spec().parallel().ranks();
  std::optional<double> wait;
  if (ahead.jobs <= kForecastJobs) {
    wait = seconds_to_start(slots, slots_total(), std::move(running), jobs_before(place));
  } else if (ahead.unknown == 0) {
    wait = seconds_of_work(slots_total(), running, ahead.slot_seconds);
  }
  if (wait) {
    const auto rest =
        std::chrono::duration_cast<WallTime::duration>(std::chrono::duration<double>(*wait));
    *plan.mutable_start_time() = to_timestamp(clock_.wall_now() + rest);
  }
  return plan;
}

std::vector<ForecastJob> Controller::jobs_before(const QueuePlace& place) const {
  std::vector<ForecastJob> before;
  jobs_.queue().walk([](const JobQueue::Lane&) { return true; },
                     [&](const QueuedJob& other) {
                       if (!(place_of(other) < place)) return JobQueue::Walk::stop;
                       before.push_back({other.needs.ranks, other.seconds});
                       return JobQueue::Walk::on;
                     });
  return before;
}

Result<v1::Job> Controller::get(const std::string& id) {
  EMOE_ASSIGN_OR_RETURN(JobRecord record, store_.job(id));
  record.job.mutable_plan()->clear_queue();  // as of its submission
  if (is_decorated(record.job)) {
    const std::lock_guard lock(mutex_);
    decorate_locked(record.job);
    if (record.job.state() == v1::QUEUED) {
      *record.job.mutable_plan()->mutable_queue() = queue_plan_locked(record.job);
    }
  }
  return std::move(record.job);
}

}  // namespace emoe::server
