// CreateJob and CreateJobs: new jobs, of several calls in one commit.
#include <exception>
#include <future>
#include <memory>
#include <set>
#include <sstream>

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/delimited_message_util.h>

#include "base/id.h"
#include "server/control/controller.h"
#include "server/control/project_quota.h"
#include "server/job/errors.h"
#include "server/job/job_warnings.h"
#include "server/scheduler/free_resources.h"

namespace emoe::server {
namespace {

std::vector<v1::Job> as_listed(std::vector<v1::Job> jobs) {
  for (v1::Job& job : jobs) leave_for_list(job);
  return jobs;
}

// What is remembered of the answer to a call that made several jobs.
std::string bytes_of(const std::vector<v1::Job>& jobs) {
  std::ostringstream bytes;
  for (const v1::Job& job : jobs) {
    google::protobuf::util::SerializeDelimitedToOstream(job, &bytes);
  }
  return bytes.str();
}

Status damaged_answer(const RequestKey& request) {
  return absl::InternalError("the stored answer to request " + request.id + " is damaged");
}

Result<std::vector<v1::Job>> jobs_of(const std::string& bytes, const RequestKey& request) {
  google::protobuf::io::ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  std::vector<v1::Job> jobs;
  for (bool at_end = false;;) {
    v1::Job job;
    if (!google::protobuf::util::ParseDelimitedFromZeroCopyStream(&job, &stream, &at_end)) {
      if (at_end) return jobs;
      return damaged_answer(request);
    }
    jobs.push_back(std::move(job));
  }
}

}  // namespace

Result<v1::Job> Controller::job_of(const std::string& bytes, const RequestKey& request) {
  v1::Job job;
  if (job.ParseFromString(bytes)) return job;
  return damaged_answer(request);
}

void leave_for_list(v1::Job& job) {
  job.clear_spec();
  job.clear_resolved_spec();
  job.clear_warnings();
  job.clear_data();
  job.clear_plan();
  job.clear_measured();
}

Result<std::optional<RequestRecord>> Controller::first_answer(const RequestKey& request) {
  if (request.id.empty()) return std::nullopt;
  EMOE_ASSIGN_OR_RETURN(auto first, store_.request(request.stored_id()));
  if (!first) return std::nullopt;
  if (first->method != request.method || first->body_hash != request.body_hash) {
    return make_error(StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
                      absl::StrCat("request_id \"", request.id, "\" was used for another ",
                                   first->method, " request; use a new one"),
                      {{"request_id", request.id}, {"job_id", first->job_id}});
  }
  return first;
}

Result<std::optional<v1::Job>> Controller::answered(const RequestKey& request) {
  EMOE_ASSIGN_OR_RETURN(const auto first, first_answer(request));
  if (!first) return std::nullopt;
  return job_of(first->response, request);
}

Result<std::optional<std::vector<v1::Job>>> Controller::answered_all(const RequestKey& request) {
  EMOE_ASSIGN_OR_RETURN(const auto first, first_answer(request));
  if (!first) return std::nullopt;
  return jobs_of(first->response, request);
}

Status Controller::check_capacity(const Submission& submission, int others) {
  const std::lock_guard lock(mutex_);
  return check_capacity_locked(submission,
                               {.jobs = others, .by_project = {{submission.by.project, others}}});
}

Status Controller::check_capacity_locked(const Submission& submission, const Coming& others) {
  const Needs needs = needs_of_new(submission.resolved, config_);
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
  if (jobs_.unfinished() + others.jobs >= config_.max_jobs) {
    return make_error(StatusCode::kResourceExhausted, "QUEUE_FULL",
                      absl::StrCat("the queue holds its ", config_.max_jobs,
                                   " unfinished jobs; try again when one has ended"),
                      {{"limit", absl::StrCat(config_.max_jobs)}});
  }
  const std::string& project = submission.by.project;
  const ProjectQuota quota = quota_of(config_.quotas, project);
  if (quota.slots > 0 && least > quota.slots) {
    return quota_exceeded(project, "slots", quota.slots,
                          absl::StrCat("the job's ", least, " ranks would never start"),
                          /*passes=*/false);
  }
  if (quota.queued_jobs == 0) return ok_status();
  int unfinished = 0;
  EMOE_ASSIGN_OR_RETURN(const auto stored, store_.count_by_state(project));
  for (const auto& [state, jobs] : stored) unfinished += is_terminal(state) ? 0 : jobs;
  const auto coming = others.by_project.find(project);
  if (coming != others.by_project.end()) unfinished += coming->second;
  if (unfinished < quota.queued_jobs) return ok_status();
  return quota_exceeded(project, "queued_jobs", quota.queued_jobs,
                        absl::StrCat("it has ", unfinished, " unfinished jobs"));
}

void Controller::create(Submission submission, RequestKey request,
                        std::function<void(Result<Created>)> done) {
  auto call = std::make_shared<Creation>();
  call->submissions.push_back(std::move(submission));
  call->request = std::move(request);
  // The group lets go of the call after this.
  call->done = [&made = *call, done = std::move(done)] {
    if (!made.status.ok()) return done(made.status);
    if (made.earlier) {
      return done(Created{std::move(made.earlier->job_id), std::move(made.earlier->response)});
    }
    done(Created{made.made.stored.front().id(), std::move(made.made.bytes)});
  };
  creations_.add(std::move(call));
}

void Controller::run_creation(const std::shared_ptr<Creation>& call) {
  // Of both threads: it must outlive set_value() too.
  const auto carried_out = std::make_shared<std::promise<void>>();
  call->done = [carried_out] { carried_out->set_value(); };
  creations_.add(call);
  carried_out->get_future().wait();
}

Result<v1::Job> Controller::create(Submission submission, const RequestKey& request) {
  const auto call = std::make_shared<Creation>();
  call->submissions.push_back(std::move(submission));
  call->request = request;
  run_creation(call);
  EMOE_RETURN_IF_ERROR(call->status);
  return job_of(call->earlier ? call->earlier->response : call->made.bytes, request);
}

Result<std::vector<v1::Job>> Controller::create_all(std::vector<Submission> submissions,
                                                    const RequestKey& request) {
  const auto call = std::make_shared<Creation>();
  call->submissions = std::move(submissions);
  call->request = request;
  call->as_list = true;
  run_creation(call);
  EMOE_RETURN_IF_ERROR(call->status);
  if (call->earlier) return jobs_of(call->earlier->response, request);
  return as_listed(std::move(call->made.stored));
}

// In the thread of creations_, which must not end by an exception: what has not been stored by then is not.
void Controller::create_together(const CallGroup<std::shared_ptr<Creation>>::Take& take) {
  Creations calls;
  try {
    const std::lock_guard lock(mutex_);
    calls = take();
    create_locked(calls);
  } catch (const std::exception& error) {
    for (const auto& call : calls) {
      if (call->made.stored.empty() && !call->earlier && call->status.ok()) {
        call->status = absl::InternalError(error.what());
      }
    }
  }
  for (const auto& call : calls) call->done();
}

// A call whose request is that of another one of the group waits for a group of its own, which then
// finds the answer. Where the commit of several fails each is stored alone, since one may be to blame.
void Controller::create_locked(const Creations& calls) {
  std::set<std::string> requests;
  Creations later;
  Creations together;
  std::vector<JobRegistry::NewJobs> made;
  Coming coming;
  for (const auto& call : calls) {
    if (!call->request.id.empty() && !requests.insert(call->request.stored_id()).second) {
      later.push_back(call);
      continue;
    }
    const Coming before = coming;
    call->status = prepare_locked(*call, coming);
    if (!call->status.ok() || call->earlier) {
      coming = before;
      continue;
    }
    together.push_back(call);
    made.push_back(std::move(call->made));
  }
  const Status stored = made.empty() ? ok_status() : jobs_.add(made);
  for (size_t i = 0; i < together.size(); ++i) {
    Creation& call = *together[i];
    call.status = stored;
    std::vector<JobRegistry::NewJobs> alone;
    if (!stored.ok() && together.size() > 1) {
      alone.push_back(std::move(made[i]));
      call.status = jobs_.add(alone);
    }
    call.made = std::move(alone.empty() ? made[i] : alone.front());
    for (const Submission& submission : call.submissions) {
      for (const Warning& warning : submission.warnings) {
        if (call.status.ok()) probe_.warned(warning.code);
      }
    }
  }
  for (const auto& call : later) create_locked({call});
  if (!together.empty()) poke();
}

// The edits of its new jobs, behind those of the same commit, to which they are added; or the answer it
// had before.
Status Controller::prepare_locked(Creation& call, Coming& coming) {
  EMOE_ASSIGN_OR_RETURN(call.earlier, first_answer(call.request));
  if (call.earlier) return ok_status();
  JobRegistry::NewJobs& made = call.made;
  std::string first_id;
  made.edits.reserve(call.submissions.size());
  for (Submission& submission : call.submissions) {
    EMOE_RETURN_IF_ERROR(check_capacity_locked(submission, coming));
    ++coming.jobs;
    ++coming.by_project[submission.by.project];
    JobRecord fresh;
    fill_new_job_locked(submission, fresh.job);
    if (first_id.empty()) first_id = fresh.job.id();
    EMOE_ASSIGN_OR_RETURN(JobEdit edit, edit_of_new_locked(std::move(fresh), submission.warnings));
    edit.rows().common = std::move(submission.common);
    made.edits.push_back(std::move(edit));
  }
  made.request = record_of(call.request, call.as_list ? "" : first_id);
  if (call.as_list) {
    made.answer = [](const std::vector<v1::Job>& stored) { return bytes_of(as_listed(stored)); };
  }
  return ok_status();
}

WallTime Controller::next_create_time_locked() const {
  const WallTime now = clock_.wall_now();
  const bool at_once = now <= last_created_ && last_created_ - now < std::chrono::seconds(1);
  return at_once ? last_created_ + WallTime::duration(1) : now;
}

void Controller::fill_new_job_locked(Submission& submission, v1::Job& job) {
  v1::JobSpec& resolved = *job.mutable_resolved_spec();
  resolved = std::move(submission.resolved);
  job.set_id(new_id("job"));
  job.set_name(resolved.name());
  job.set_project(submission.by.project);
  job.set_owner(submission.by.owner);
  job.mutable_allowed_roots()->Add(submission.by.allowed_roots.begin(),
                                   submission.by.allowed_roots.end());
  *job.mutable_spec() = std::move(submission.spec);
  *job.mutable_data() = std::move(submission.data);
  *job.mutable_plan() = std::move(submission.plan);
  job.set_state(v1::VALIDATING);
  job.set_output_dir((config_.output_root / job.id()).string());
  last_created_ = next_create_time_locked();
  *job.mutable_create_time() = to_timestamp(last_created_);
  job.set_priority(resolved.resources().priority());
  *job.mutable_plan()->mutable_queue() = queue_plan_locked(job);
}

Result<JobEdit> Controller::edit_of_new_locked(JobRecord fresh,
                                               const std::vector<Warning>& warnings) {
  JobEdit edit(std::move(fresh), clock_);
  EMOE_RETURN_IF_ERROR(edit.apply(JobEvent::validated, v1::REASON_UNSPECIFIED, ""));
  for (const Warning& warning : warnings) edit.warn(to_message(warning));
  edit.touch();
  return edit;
}

}  // namespace emoe::server
