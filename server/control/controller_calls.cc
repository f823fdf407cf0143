// The calls of Controller that change a job on a client's behalf.
#include <algorithm>

#include <absl/strings/str_cat.h>

#include "server/control/controller.h"
#include "server/job/errors.h"

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

Result<v1::Job> Controller::update(const std::string& id, const JobUpdate& update,
                                   const std::string& etag, const RequestKey& request) {
  const std::lock_guard lock(mutex_);
  EMOE_ASSIGN_OR_RETURN(const auto first, answered(request));
  if (first) return *first;
  EMOE_ASSIGN_OR_RETURN(LiveJob* const live, jobs_.wake(id));
  if (live == nullptr) {
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
  EMOE_ASSIGN_OR_RETURN(LiveJob* const found, jobs_.wake(id));
  if (found == nullptr || found->record.job.state() == v1::CANCELLING) {
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
  EMOE_ASSIGN_OR_RETURN(LiveJob* const woken, jobs_.wake(id));
  LiveJob& live = *woken;
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
  EMOE_ASSIGN_OR_RETURN(LiveJob* const woken, jobs_.wake(id));
  LiveJob& live = *woken;
  JobEdit edit(live, clock_);
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::resume_requested, v1::REASON_UNSPECIFIED, ""));
  edit.record().not_before.reset();
  edit.record().idle_requeues = 0;
  edit.rows().request = record_of(request, id);
  EMOE_RETURN_IF_ERROR(jobs_.commit(live, std::move(edit)));
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

Result<int> Controller::forget_ended(WallTime before, int most, const std::stop_token& stop) {
  constexpr int kPiece = 2000;  // events of one commit
  EMOE_ASSIGN_OR_RETURN(const auto ids, store_.ended_before(before, most));
  int forgotten = 0;
  for (const std::string& id : ids) {
    for (int removed = kPiece; removed == kPiece;) {
      if (stop.stop_requested()) return forgotten;
      EMOE_ASSIGN_OR_RETURN(removed, store_.remove_events(id, kPiece));
    }
    const Status gone = remove(id, "", false, {});
    if (!gone.ok() && gone.code() != StatusCode::kNotFound) return gone;
    ++forgotten;
  }
  return forgotten;
}

Status Controller::check_no_export_locked(const v1::Job& trained) {
  for (const auto& [id, live] : jobs_.all()) {
    const v1::Job& other = live.record.job;
    if (other.export_of().job_id() != trained.id() || is_terminal(other.state())) continue;
    return make_error(
        StatusCode::kFailedPrecondition, "WRONG_STATE",
        absl::StrCat("job ", trained.id(), " cannot be deleted with its outputs: job ", id,
                     ", which is ", to_string(other.state()), ", exports its checkpoint of step ",
                     other.export_of().step(), " into them; wait for that job's end or cancel it"),
        {{"job_id", trained.id()}, {"export_job_id", id}, {"state", to_string(other.state())}});
  }
  return ok_status();
}

Status Controller::forget_locked(const std::string& id, const std::string& etag,
                                 const RequestKey& request, bool delete_outputs,
                                 DiscardedFolders& discarded) {
  EMOE_ASSIGN_OR_RETURN(const JobRecord stored, store_.job(id));
  const v1::Job& job = stored.job;
  if (!is_terminal(job.state())) return wrong_state(job, "be deleted; cancel it first");
  EMOE_RETURN_IF_ERROR(check_etag(job, etag));
  if (delete_outputs) EMOE_RETURN_IF_ERROR(check_no_export_locked(job));
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
  jobs_.removed(job.state());
  jobs_.drop_idle();
  if (listener_) listener_(id);
  return ok_status();
}

}  // namespace emoe::server
