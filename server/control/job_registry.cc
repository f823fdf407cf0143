#include "server/control/job_registry.h"

#include <algorithm>

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

JobRegistry::JobRegistry(JobStore& store, const Clock& clock,
                         std::function<void(const std::string&)> on_change)
    : store_(store), clock_(clock), on_change_(std::move(on_change)) {}

Status JobRegistry::load() {
  EMOE_ASSIGN_OR_RETURN(std::vector<JobRecord> records, store_.unfinished_jobs());
  for (JobRecord& record : records) {
    const std::string id = record.job.id();
    EMOE_ASSIGN_OR_RETURN(std::vector<AttemptRecord> attempts, store_.attempts(id));
    LiveJob& live = jobs_[id];
    live.record = std::move(record);
    if (!attempts.empty() && !attempts.back().ended) {
      live.attempt = std::make_unique<LiveAttempt>();
      live.attempt->record = std::move(attempts.back());
    }
  }
  return ok_status();
}

LiveJob* JobRegistry::find(const std::string& id) {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : &found->second;
}

Change JobRegistry::finish(JobEdit& edit) {
  if (edit.touched_) {
    ++edit.record_.revision;
    edit.record_.job.set_etag(absl::StrFormat("%x", edit.record_.revision));
  }
  *edit.record_.job.mutable_update_time() = to_timestamp(edit.clock_.wall_now());
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

Status JobRegistry::add(JobEdit edit) {
  EMOE_RETURN_IF_ERROR(store_.commit(finish(edit)));
  const std::string id = edit.record_.job.id();
  jobs_[id].record = std::move(edit.record_);
  on_change_(id);
  return ok_status();
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
    live->record = std::move(edit.record_);
    if (edit.attempt_ && live->attempt) {
      live->attempt->record = std::move(*edit.attempt_);
      live->attempt->steps = std::move(edit.steps_);
    }
    for (const auto& action : edit.after_) action();
    on_change_(live->record.job.id());
  }
  return ok_status();
}

void JobRegistry::drop_ended() {
  std::erase_if(jobs_, [](const auto& entry) {
    return is_terminal(entry.second.record.job.state()) && entry.second.attempt == nullptr;
  });
}

}  // namespace emoe::server
