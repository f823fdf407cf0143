#include "server/control/job_registry.h"

#include <algorithm>
#include <limits>

#include <absl/strings/str_format.h>
#include <google/protobuf/util/time_util.h>

#include "base/check.h"

namespace emoe::server {

using google::protobuf::util::TimeUtil;

int newest_attempt(const v1::Job& job) {
  return job.attempts().empty() ? 0 : job.attempts().rbegin()->number();
}

int ranks_of(const v1::Job& job) {
  const int given = job.attempts().empty() ? 0 : job.attempts().rbegin()->world_size();
  const int asked = job.resolved_spec().parallel().ranks();
  return given > 0 && asked > 0 ? given : asked;  // a damaged row's attempt must not go on
}

google::protobuf::Timestamp to_timestamp(WallTime time) {
  return TimeUtil::NanosecondsToTimestamp(
      std::chrono::nanoseconds(time.time_since_epoch()).count());
}

WallTime to_wall_time(const google::protobuf::Timestamp& time) {
  return WallTime(std::chrono::duration_cast<WallTime::duration>(
      std::chrono::nanoseconds(TimeUtil::TimestampToNanoseconds(time))));
}

JobEdit::JobEdit(const LiveJob& live, const Clock& clock) : clock_(clock), record_(live.record) {
  if (!live.attempt) return;
  attempt_ = live.attempt->record;
  steps_ = live.attempt->steps;
}

Status JobEdit::apply(JobEvent event, v1::Reason reason, const std::string& message) {
  EMOE_ASSIGN_OR_RETURN(const v1::JobState to, next_state(record_.job.state(), event));
  v1::StateChange& change = *add_event().mutable_state_change();
  change.set_from(record_.job.state());
  change.set_to(to);
  change.set_reason(reason);
  change.set_message(message);
  change.set_attempt(attempt_ ? attempt_->number : 0);
  record_.job.set_state(to);
  record_.job.set_reason(reason);
  record_.job.set_message(message);
  if (is_terminal(to)) *record_.job.mutable_end_time() = to_timestamp(clock_.wall_now());
  touch();
  return ok_status();
}

v1::Event& JobEdit::add_event() {
  v1::Event& event = change_.events.emplace_back();
  event.set_sequence(record_.next_sequence++);
  event.set_job_id(record_.job.id());
  *event.mutable_time() = to_timestamp(clock_.wall_now());
  return event;
}

void JobEdit::log(v1::LogMessage::Level level, const std::string& text, int rank) {
  v1::LogMessage& message = *add_event().mutable_log();
  message.set_level(level);
  message.set_text(text);
  message.set_rank(rank);
  message.set_attempt(attempt_ ? attempt_->number : 0);
}

bool JobEdit::warn(const v1::Warning& warning) {
  const auto& known = record_.job.warnings();
  const auto same = std::find_if(known.begin(), known.end(), [&](const v1::Warning& earlier) {
    return earlier.code() == warning.code() && earlier.where() == warning.where();
  });
  const auto index = static_cast<int>(same - known.begin());
  if (same != known.end() && same->SerializeAsString() == warning.SerializeAsString()) return false;
  *(same == known.end() ? job().add_warnings() : job().mutable_warnings(index)) = warning;
  *add_event().mutable_warning() = warning;
  touch();
  return true;
}

AttemptRecord& JobEdit::attempt() {
  EMOE_CHECK(attempt_.has_value());
  attempt_changed_ = true;
  return *attempt_;
}

v1::Attempt& JobEdit::public_attempt() {
  EMOE_CHECK(record_.job.attempts_size() > 0);
  return *job().mutable_attempts(record_.job.attempts_size() - 1);
}

QueuePlace place_of(const v1::Job& job) {
  return {job.priority(), to_wall_time(job.create_time()), job.id()};
}

namespace {

// Of one that has not been started yet.
Needs needs_of_row(const QueuedRow& row, const ControlConfig& config) {
  const bool gpus =
      std::ranges::any_of(config.hosts, [](const Pool::Host& host) { return host.gpus > 0; });
  return {.ranks = row.ranks,
          .gpus = gpus && !row.on_cpu,
          .min_ranks = row.min_ranks,
          .rows = row.batch};
}

QueuedJob queued_job(const QueuedRow& row, const Needs& needs) {
  return {.id = row.id,
          .needs = needs,
          .priority = row.priority,
          .create_time = row.create_time,
          .not_before = {},
          .full_until = {},
          .seconds = row.seconds,
          .project = row.project};
}

}  // namespace

Needs needs_of_new(const v1::JobSpec& resolved, const ControlConfig& config) {
  return needs_of_row({.id = "",
                       .create_time = {},
                       .ranks = resolved.parallel().ranks(),
                       .min_ranks = resolved.parallel().min_ranks(),
                       .batch = resolved.train().global_batch(),
                       .on_cpu = resolved.resources().device() == "cpu",
                       .seconds = {},
                       .project = ""},
                      config);
}

Needs needs_of(const v1::Job& job, const ControlConfig& config) {
  Needs needs = needs_of_row(queued_row(job), config);
  needs.group = std::max(job.resolved_spec().parallel().tensor(), 1);
  needs.most_ranks = job.attempts().empty() ? 0 : job.attempts().rbegin()->next_world_size();
  return needs;
}

std::optional<SteadyTime> end_of_pause(const JobRecord& record, const ControlConfig& config,
                                       const Clock& clock) {
  if (!record.not_before) return std::nullopt;
  const WallTime::duration longest =
      retry_pause(config.retry_pause, std::numeric_limits<int>::max());
  const auto left = *record.not_before - clock.wall_now();
  return clock.steady_now() + std::clamp(left, WallTime::duration::zero(), longest);
}

JobRegistry::JobRegistry(const ControlConfig& config, JobStore& store, const Clock& clock,
                         std::function<void(const std::string&)> on_change)
    : config_(config), store_(store), clock_(clock), on_change_(std::move(on_change)) {}

Status JobRegistry::load() {
  EMOE_ASSIGN_OR_RETURN(counts_, store_.count_by_state());
  const SteadyTime full_until = clock_.steady_now() + config_.elastic_wait;
  EMOE_RETURN_IF_ERROR(store_.queued_jobs([&](const QueuedRow& row) {
    QueuedJob queued = queued_job(row, needs_of_row(row, config_));
    queued.full_until = full_until;
    queue_.put(queued);
  }));
  EMOE_ASSIGN_OR_RETURN(std::vector<JobRecord> records, store_.resident_jobs());
  for (JobRecord& record : records) {
    const std::string id = record.job.id();
    EMOE_ASSIGN_OR_RETURN(std::vector<AttemptRecord> attempts, store_.attempts(id));
    LiveJob& live = jobs_[id];
    live.record = std::move(record);
    if (!attempts.empty() && !attempts.back().ended) {
      live.attempt = std::make_unique<LiveAttempt>();
      live.attempt->record = std::move(attempts.back());
    }
    enqueue(live);
  }
  return ok_status();
}

LiveJob* JobRegistry::find(const std::string& id) {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : &found->second;
}

Result<LiveJob*> JobRegistry::wake(const std::string& id) {
  if (LiveJob* live = find(id); live != nullptr) {
    return is_terminal(live->record.job.state()) ? nullptr : live;
  }
  EMOE_ASSIGN_OR_RETURN(JobRecord record, store_.job(id));
  if (is_terminal(record.job.state())) return nullptr;
  LiveJob& live = jobs_[id];
  live.record = std::move(record);
  if (const auto queued = queue_.find(place_of(live.record.job))) {
    live.resume_at = queued->not_before;
    live.full_until = queued->full_until;
  }
  return &live;
}

int JobRegistry::unfinished() const {
  int unfinished = 0;
  for (const auto& [state, jobs] : counts_) unfinished += is_terminal(state) ? 0 : jobs;
  return unfinished;
}

void JobRegistry::enqueue(LiveJob& live) {
  const v1::Job& job = live.record.job;
  if (job.state() != v1::QUEUED) return;
  live.resume_at = end_of_pause(live.record, config_, clock_);
  const SteadyTime now = clock_.steady_now();
  if (!live.full_until) {
    live.full_until = std::max(live.resume_at.value_or(now), now) + config_.elastic_wait;
  }
  QueuedJob queued = queued_job(queued_row(job), needs_of(job, config_));
  queued.not_before = live.resume_at;
  queued.full_until = live.full_until;
  queue_.put(queued);
}

void JobRegistry::count(v1::JobState from, v1::JobState to) {
  if (from == to) return;
  if (from != v1::JOB_STATE_UNSPECIFIED) --counts_[from];
  ++counts_[to];
}

void JobRegistry::finish_record(JobEdit& edit) {
  if (edit.touched_) {
    ++edit.record_.revision;
    edit.record_.job.set_etag(absl::StrFormat("%x", edit.record_.revision));
  }
  *edit.record_.job.mutable_update_time() = to_timestamp(edit.clock_.wall_now());
}

Change JobRegistry::finish(JobEdit& edit) {
  finish_record(edit);
  Change change = std::move(edit.change_);
  // The answer to the call that made this change; its repeat gets these very bytes.
  if (change.request) change.request->response = edit.record_.job.SerializeAsString();
  if (edit.job_changed_) {
    change.job = edit.record_;
  } else {
    change.progress = progress_of(edit.record_);
  }
  if (edit.attempt_changed_) change.attempts.push_back(*edit.attempt_);
  return change;
}

namespace {

// Parts a new job from what has a row of its own, and writes down the rest.
void take_progress(Change& change) {
  v1::Job& job = change.job->job;
  JobProgress& progress = change.progress.emplace();
  progress.job_id = job.id();
  progress.next_sequence = change.job->next_sequence;
  progress.run_time = change.job->run_time;
  progress.fields.mutable_progress()->Swap(job.mutable_progress());
  progress.fields.mutable_update_time()->Swap(job.mutable_update_time());
  job.clear_progress();
  job.clear_update_time();
  std::string& body = change.fresh_body.emplace();
  if (change.common) body = *change.common;
  // The parts of a message one behind the other are the message.
  job.AppendToString(&body);
}

void give_progress_back(Change& change) {
  v1::Job& job = change.job->job;
  job.mutable_update_time()->Swap(change.progress->fields.mutable_update_time());
  const bool any = change.progress->fields.progress().ByteSizeLong() > 0;
  if (any) job.mutable_progress()->Swap(change.progress->fields.mutable_progress());
  change.progress.reset();
}

}  // namespace

Status JobRegistry::add(std::vector<NewJobs>& calls) {
  std::vector<Change> changes;
  size_t jobs = 0;
  for (const NewJobs& call : calls) jobs += call.edits.size();
  changes.reserve(jobs);
  for (NewJobs& call : calls) {
    const size_t first = changes.size();
    for (JobEdit& edit : call.edits) {
      finish_record(edit);
      edit.touched_ = false;  // when it is stored the second time it has its revision
      Change& change = changes.emplace_back(std::move(edit.change_));
      change.job = std::move(edit.record_);
    }
    if (call.request && call.answer) {
      std::vector<v1::Job> answered;
      for (size_t i = first; i < changes.size(); ++i) answered.push_back(changes[i].job->job);
      call.request->response = call.answer(answered);
    }
    for (size_t i = first; i < changes.size(); ++i) take_progress(changes[i]);
    if (!call.answer) {
      call.bytes = *changes[first].fresh_body + changes[first].progress->fields.SerializeAsString();
      if (call.request) call.request->response = call.bytes;
    }
    if (call.request) changes.back().request = call.request;
  }
  const Status stored = store_.commit(changes);
  for (Change& change : changes) give_progress_back(change);
  size_t next = 0;
  for (NewJobs& call : calls) {
    for (JobEdit& edit : call.edits) {
      Change& change = changes[next++];
      edit.record_ = *std::move(change.job);
      change.job.reset();
      if (stored.ok()) {
        keep_new(std::move(edit.record_), call.stored);
      } else {
        edit.change_ = std::move(change);
      }
    }
  }
  return stored;
}

void JobRegistry::keep_new(JobRecord record, std::vector<v1::Job>& stored) {
  LiveJob live;
  live.record = std::move(record);
  const std::string id = live.record.job.id();
  count(v1::JOB_STATE_UNSPECIFIED, live.record.job.state());
  enqueue(live);
  if (is_resident(live.record)) {
    stored.push_back(live.record.job);
    jobs_[id] = std::move(live);
  } else {
    stored.push_back(std::move(live.record.job));
  }
  on_change_(id);
}

Status JobRegistry::commit(LiveJob& live, JobEdit edit) {
  std::vector<std::pair<LiveJob*, JobEdit>> edits;
  edits.emplace_back(&live, std::move(edit));
  return commit(std::move(edits));
}

Status JobRegistry::commit(std::vector<std::pair<LiveJob*, JobEdit>>&& edits) {
  std::vector<Change> changes;
  changes.reserve(edits.size());
  for (auto& [live, edit] : edits) changes.push_back(finish(edit));
  EMOE_RETURN_IF_ERROR(store_.commit(changes));
  for (auto& [live, edit] : edits) {
    const v1::JobState before = live->record.job.state();
    if (before == v1::QUEUED) queue_.take(place_of(live->record.job));
    live->record = std::move(edit.record_);
    count(before, live->record.job.state());
    enqueue(*live);
    if (edit.attempt_ && live->attempt) {
      live->attempt->record = std::move(*edit.attempt_);
      live->attempt->steps = std::move(edit.steps_);
    }
    for (const auto& action : edit.after_) action();
    on_change_(live->record.job.id());
  }
  return ok_status();
}

void JobRegistry::drop_idle() {
  std::erase_if(jobs_, [](const auto& entry) {
    const LiveJob& live = entry.second;
    const v1::Job& job = live.record.job;
    if (live.attempt != nullptr) return false;
    if (is_terminal(job.state())) return true;
    const bool waits = job.state() == v1::QUEUED || job.state() == v1::PAUSED;
    return waits && !is_resident(live.record);
  });
}

}  // namespace emoe::server
