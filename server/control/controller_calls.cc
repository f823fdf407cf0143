// The calls of Controller that change a job on a client's behalf.
#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/id.h"
#include "server/control/controller.h"
#include "server/job/errors.h"
#include "server/job/job_warnings.h"
#include "server/scheduler/free_resources.h"

namespace emoe::server {
namespace {

Status wrong_state(const v1::Job& job, const std::string& doing) {
  return make_error(
      StatusCode::kFailedPrecondition, "WRONG_STATE",
      absl::StrCat("job ", job.id(), " is ", to_string(job.state()), ": cannot ", doing),
      {{"job_id", job.id()}, {"state", to_string(job.state())}});
}

Status check_etag(const v1::Job& job, const std::string& etag) {
  if (etag.empty() || etag == job.etag()) return ok_status();
  return make_error(
      StatusCode::kAborted, "ETAG_MISMATCH",
      absl::StrCat("job ", job.id(), " has changed since etag ", etag, "; read it again"),
      {{"job_id", job.id()}, {"etag", job.etag()}});
}

}  // namespace

Result<std::optional<v1::Job>> Controller::answered(const RequestKey& request) {
  if (request.id.empty()) return std::nullopt;
  EMOE_ASSIGN_OR_RETURN(const auto first, store_.request(request.stored_id()));
  if (!first) return std::nullopt;
  if (first->method != request.method || first->body_hash != request.body_hash) {
    return make_error(StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
                      absl::StrCat("request_id \"", request.id, "\" was used for another ",
                                   first->method, " request; use a new one"),
                      {{"request_id", request.id}, {"job_id", first->job_id}});
  }
  v1::Job job;
  if (job.ParseFromString(first->response)) return job;
  return absl::InternalError("the stored answer to request " + request.id + " is damaged");
}

std::optional<RequestRecord> Controller::record_of(const RequestKey& request,
                                                   const std::string& job_id) const {
  if (request.id.empty()) return std::nullopt;
  return RequestRecord{.request_id = request.stored_id(),
                       .method = request.method,
                       .body_hash = request.body_hash,
                       .job_id = job_id,
                       .response = "",
                       .time = clock_.wall_now()};
}

Status Controller::check_capacity(const v1::JobSpec& resolved, const std::string& project) {
  const std::lock_guard lock(mutex_);
  return check_capacity_locked(resolved, project);
}

Status Controller::check_capacity_locked(const v1::JobSpec& resolved, const std::string& project) {
  v1::Job job;
  *job.mutable_resolved_spec() = resolved;
  const Needs needs = needs_of(job, config_);
  const bool elastic = needs.min_ranks > 0;
  const int least = elastic ? needs.min_ranks : needs.ranks;
  const int room = FreeResources(hosts_.all(), {}).ranks(needs.gpus);
  if (least > room) {
    return make_error(
        StatusCode::kFailedPrecondition, "NOT_ENOUGH_SLOTS",
        absl::StrCat(elastic ? "parallel.min_ranks is " : "parallel.ranks is ", least,
                     ", this service has ", room, " slots", needs.gpus ? " with a GPU" : ""),
        {{"needed", absl::StrCat(least)}, {"available", absl::StrCat(room)}});
  }
  if (static_cast<int>(jobs_.all().size()) >= config_.max_jobs) {
    return make_error(StatusCode::kResourceExhausted, "QUEUE_FULL",
                      absl::StrCat("the queue holds its ", config_.max_jobs,
                                   " unfinished jobs; try again when one has ended"),
                      {{"limit", absl::StrCat(config_.max_jobs)}});
  }
  const ProjectQuota quota = quota_of(config_.quotas, project);
  const auto unfinished = std::ranges::count_if(
      jobs_.all(), [&](const auto& entry) { return entry.second.record.job.project() == project; });
  if (quota.queued_jobs > 0 && unfinished >= quota.queued_jobs) {
    return quota_exceeded(project, "queued_jobs", quota.queued_jobs,
                          absl::StrCat("it has ", unfinished, " unfinished jobs"));
  }
  if (quota.slots > 0 && least > quota.slots) {
    return quota_exceeded(project, "slots", quota.slots,
                          absl::StrCat("the job's ", least, " ranks would never start"));
  }
  return ok_status();
}

Result<v1::Job> Controller::create(const Submission& submission, const RequestKey& request) {
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const auto first, answered(request));
  if (first) return *first;
  EMOE_RETURN_IF_ERROR(check_capacity_locked(submission.resolved, submission.by.project));
  LiveJob fresh;
  fill_new_job_locked(submission, fresh.record.job);
  return add_locked(std::move(fresh), submission.warnings, request);
}

void Controller::fill_new_job_locked(const Submission& submission, v1::Job& job) {
  const v1::JobSpec& resolved = submission.resolved;
  job.set_id(new_id("job"));
  job.set_name(resolved.name());
  job.set_project(submission.by.project);
  job.set_owner(submission.by.owner);
  job.mutable_allowed_roots()->Add(submission.by.allowed_roots.begin(),
                                   submission.by.allowed_roots.end());
  *job.mutable_spec() = submission.spec;
  *job.mutable_resolved_spec() = resolved;
  *job.mutable_data() = submission.data;
  *job.mutable_plan() = submission.plan;
  job.set_state(v1::VALIDATING);
  job.set_output_dir((config_.output_root / job.id()).string());
  *job.mutable_create_time() = to_timestamp(clock_.wall_now());
  job.set_priority(resolved.resources().priority());
  *job.mutable_plan()->mutable_queue() = queue_plan_locked(job);
}

Result<v1::Job> Controller::add_locked(LiveJob fresh, const std::vector<Warning>& warnings,
                                       const RequestKey& request) {
  JobEdit edit(fresh, clock_);
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::validated, v1::REASON_UNSPECIFIED, ""));
  for (const Warning& warning : warnings) edit.warn(to_message(warning));
  edit.touch();
  const std::string id = edit.current().id();
  edit.rows().request = record_of(request, id);
  EMOE_RETURN_IF_ERROR(jobs_.add(std::move(edit)));
  for (const Warning& warning : warnings) probe_.warned(warning.code);
  poke();
  return jobs_.find(id)->record.job;
}

Result<v1::Job> Controller::update(const std::string& id, const JobUpdate& update,
                                   const std::string& etag, const RequestKey& request) {
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const auto first, answered(request));
  if (first) return *first;
  LiveJob* const live = jobs_.find(id);
  if (live == nullptr || is_terminal(live->record.job.state())) {
    EMOE_ASSIGN_OR_RETURN(const JobRecord stored, store_.job(id));
    return wrong_state(stored.job, "be updated");
  }
  EMOE_RETURN_IF_ERROR(check_etag(live->record.job, etag));
  JobEdit edit(*live, clock_);
  v1::Job& job = edit.job();
  for (v1::JobSpec* spec : {job.mutable_spec(), job.mutable_resolved_spec()}) {
    if (update.priority) spec->mutable_resources()->set_priority(*update.priority);
    if (update.name) spec->set_name(*update.name);
    if (!update.labels) continue;
    spec->mutable_labels()->clear();
    for (const auto& [key, value] : *update.labels) (*spec->mutable_labels())[key] = value;
  }
  if (update.priority) job.set_priority(*update.priority);
  if (update.name) job.set_name(*update.name);
  edit.touch();
  edit.rows().request = record_of(request, id);
  EMOE_RETURN_IF_ERROR(jobs_.commit(*live, std::move(edit)));
  poke();
  return live->record.job;
}

Result<v1::Job> Controller::cancel(const std::string& id, const std::string& message,
                                   const RequestKey& request) {
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const auto first, answered(request));
  if (first) return *first;
  LiveJob* const found = jobs_.find(id);
  if (found == nullptr || is_terminal(found->record.job.state()) ||
      found->record.job.state() == v1::CANCELLING) {
    EMOE_ASSIGN_OR_RETURN(const JobRecord stored, store_.job(id));
    const v1::JobState state = stored.job.state();
    if (state == v1::CANCELLED || state == v1::CANCELLING) {
      return answer_unchanged(stored.job, request);
    }
    return wrong_state(stored.job, "be cancelled");
  }
  LiveJob& live = *found;
  JobEdit edit(live, clock_);
  edit.record().cancel_message = message.empty() ? "cancelled by a client" : message;
  edit.touch();
  edit.rows().request = record_of(request, id);
  if (live.attempt) {
    EMOE_RETURN_IF_ERROR(watch_.cancel(live, std::move(edit)));
  } else {
    EMOE_RETURN_IF_ERROR(
        edit.apply(JobEvent::cancel_requested, v1::REASON_CANCELLED, edit.record().cancel_message));
    EMOE_RETURN_IF_ERROR(jobs_.commit(live, std::move(edit)));
    probe_.job_finished(v1::CANCELLED, v1::REASON_CANCELLED);
  }
  poke();
  return live.record.job;
}

Result<v1::Job> Controller::answer_unchanged(const v1::Job& job, const RequestKey& request) {
  Change change;
  change.request = record_of(request, job.id());
  if (!change.request) return job;
  change.request->response = job.SerializeAsString();
  EMOE_RETURN_IF_ERROR(store_.commit(change));
  return job;
}

Result<v1::Job> Controller::pause(const std::string& id, const RequestKey& request) {
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const auto first, answered(request));
  if (first) return *first;
  EMOE_ASSIGN_OR_RETURN(const JobRecord stored, store_.job(id));
  const v1::JobState state = stored.job.state();
  if (state == v1::PAUSED || state == v1::PAUSING) return answer_unchanged(stored.job, request);
  if (!next_state(state, JobEvent::pause_requested).ok()) {
    return wrong_state(stored.job, "be paused");
  }
  LiveJob& live = *jobs_.find(id);
  JobEdit edit(live, clock_);
  edit.rows().request = record_of(request, id);
  if (live.attempt) {
    EMOE_RETURN_IF_ERROR(watch_.pause(live, std::move(edit)));
  } else {
    EMOE_RETURN_IF_ERROR(
        edit.apply(JobEvent::pause_requested, v1::REASON_PAUSED, "paused by a client"));
    EMOE_RETURN_IF_ERROR(jobs_.commit(live, std::move(edit)));
  }
  poke();
  return live.record.job;
}

Result<v1::Job> Controller::resume(const std::string& id, const RequestKey& request) {
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const auto first, answered(request));
  if (first) return *first;
  EMOE_ASSIGN_OR_RETURN(const JobRecord stored, store_.job(id));
  if (!next_state(stored.job.state(), JobEvent::resume_requested).ok()) {
    return wrong_state(stored.job, "be resumed: it is not paused");
  }
  LiveJob& live = *jobs_.find(id);
  JobEdit edit(live, clock_);
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::resume_requested, v1::REASON_UNSPECIFIED, ""));
  edit.record().not_before.reset();
  edit.record().idle_requeues = 0;
  edit.rows().request = record_of(request, id);
  EMOE_RETURN_IF_ERROR(jobs_.commit(live, std::move(edit)));
  live.resume_at.reset();
  poke();
  return live.record.job;
}

Status Controller::remove(const std::string& id, const std::string& etag, bool delete_outputs,
                          const RequestKey& request) {
  DiscardedFolders discarded(config_.remove_folder);
  {
    const std::lock_guard lock(mutex_);
    EMOE_ASSIGN_OR_RETURN(const auto first, answered(request));
    if (first) return ok_status();
    EMOE_RETURN_IF_ERROR(forget_locked(id, etag, request, delete_outputs, discarded));
  }
  discarded.remove();
  return ok_status();
}

Status Controller::forget_locked(const std::string& id, const std::string& etag,
                                 const RequestKey& request, bool delete_outputs,
                                 DiscardedFolders& discarded) {
  EMOE_ASSIGN_OR_RETURN(const JobRecord stored, store_.job(id));
  const v1::Job& job = stored.job;
  if (!is_terminal(job.state())) return wrong_state(job, "be deleted; cancel it first");
  EMOE_RETURN_IF_ERROR(check_etag(job, etag));
  // Files first: a job whose files could not be removed stays listed.
  if (delete_outputs) {
    const Status aside = discarded.take(job.output_dir());
    if (!aside.ok()) return with_context(with_reason(aside, "OUTPUT_NOT_REMOVED"), "job " + id);
  }
  failures_.note("job " + id, discarded.take(config_.job_dir(id)));
  if (const Status gone = store_.remove_job(id, record_of(request, id)); !gone.ok()) {
    discarded.put_back();
    return gone;
  }
  probe_.forget_job(id);
  jobs_.drop_ended();
  if (listener_) listener_(id);
  return ok_status();
}

}  // namespace emoe::server
