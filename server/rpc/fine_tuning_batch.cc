// CreateJobs and BackupDatabase: calls that concern many jobs at once.
#include <absl/strings/str_cat.h>

#include "base/clock.h"
#include "server/job/errors.h"
#include "server/job/job_warnings.h"
#include "server/rpc/fine_tuning_handler.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/requests.h"

namespace emoe::server {
namespace {

constexpr int kMostJobs = 1000;

// What must not be said for a single job of the call.
Status check_batch(const v1::CreateJobsRequest& request) {
  if (request.requests_size() > kMostJobs) {
    return make_error(StatusCode::kInvalidArgument, "TOO_MANY_JOBS",
                      absl::StrCat("the call has ", request.requests_size(), " jobs; at most ",
                                   kMostJobs, " go in one call"),
                      {{"limit", absl::StrCat(kMostJobs)}});
  }
  Diagnostics keys;
  Diagnostics others;
  if (request.requests().empty()) others.add("requests", "names no job");
  for (int i = 0; i < request.requests_size(); ++i) {
    const std::string field = absl::StrCat("requests[", i, "].");
    if (!request.requests(i).request_id().empty()) {
      keys.add(field + "request_id",
               "must be empty: the call's own request_id counts for all jobs");
    }
    if (request.requests(i).validate_only()) {
      others.add(field + "validate_only", "must not be set: that of the call counts for all jobs");
    }
  }
  if (!keys.empty()) return with_reason(keys.to_status(), "INVALID_REQUEST_ID");
  return bad_request(others, "INVALID_SPEC");
}

// Every job of the call is looked at, so that a user hears of all problems at once.
Result<std::vector<Submission>> admit_all(const v1::CreateJobsRequest& request,
                                          const std::vector<std::filesystem::path>& roots,
                                          const Submitter& by, AdmissionCache& admission) {
  Diagnostics all;
  Status misfit;
  std::vector<Submission> submissions;
  submissions.reserve(static_cast<size_t>(request.requests_size()));
  for (int i = 0; i < request.requests_size(); ++i) {
    const std::string place = absl::StrCat("requests[", i, "]");
    const v1::JobSpec& spec = request.requests(i).spec();
    if (auto recalled = admission.recall(spec, roots)) {
      submissions.push_back(submission_of(spec, *std::move(recalled), by));
      continue;
    }
    Diagnostics problems;
    Findings found;
    v1::JobSpec resolved = admission.admit(spec, roots, problems, &found);
    for (const Violation& violation : problems.violations()) {
      all.add(violation.location, absl::StrCat(place, ".spec.", violation.field), violation.reason);
    }
    if (misfit.ok() && problems.empty()) misfit = with_context(check_fits(found.plan), place);
    submissions.push_back({.spec = spec,
                           .resolved = std::move(resolved),
                           .warnings = problems.warnings(),
                           .data = std::move(found.data),
                           .plan = std::move(found.plan),
                           .by = by});
  }
  EMOE_RETURN_IF_ERROR(bad_request(all, "INVALID_SPEC"));
  EMOE_RETURN_IF_ERROR(misfit);
  return submissions;
}

// For the audit log.
void name_jobs(const std::vector<v1::Job>& jobs, Call& call) {
  for (const v1::Job& job : jobs) call.job_ids.push_back(job.id());
}

v1::Job validated(const Submission& submission) {
  v1::Job job;
  job.set_name(submission.resolved.name());
  job.set_state(v1::VALIDATING);
  job.set_priority(submission.resolved.resources().priority());
  return job;
}

}  // namespace

grpc::Status FineTuningHandler::CreateJobs(grpc::ServerContext* context,
                                           const v1::CreateJobsRequest* request,
                                           v1::CreateJobsResponse* response) {
  return serve(*context, {.method = "CreateJobs", .job_id = ""}, [&](Call& call) -> Status {
    Diagnostics problems;
    const RequestKey key = key_of(call, *request, problems);
    EMOE_RETURN_IF_ERROR(bad_request(problems));
    EMOE_RETURN_IF_ERROR(check_batch(*request));
    if (!request->validate_only()) {
      EMOE_ASSIGN_OR_RETURN(auto first, controller_.answered_all(key));
      if (first) {
        name_jobs(*first, call);
        response->mutable_jobs()->Add(first->begin(), first->end());
        return ok_status();
      }
    }
    EMOE_ASSIGN_OR_RETURN(auto submissions,
                          admit_all(*request, roots_of(call), submitter_of(call), admission_));
    int64_t disk = 0;
    for (const Submission& submission : submissions) disk += submission.plan.disk().total_bytes();
    EMOE_RETURN_IF_ERROR(check_disk_quota(call, disk));
    if (!request->validate_only()) {
      EMOE_ASSIGN_OR_RETURN(auto jobs, controller_.create_all(std::move(submissions), key));
      name_jobs(jobs, call);
      response->mutable_jobs()->Reserve(static_cast<int>(jobs.size()));
      for (v1::Job& job : jobs) *response->add_jobs() = std::move(job);
      return ok_status();
    }
    for (const Submission& submission : submissions) {
      EMOE_RETURN_IF_ERROR(
          controller_.check_capacity(submission, static_cast<int>(submissions.size()) - 1));
      *response->add_jobs() = validated(submission);
    }
    return ok_status();
  });
}

grpc::Status FineTuningHandler::BackupDatabase(grpc::ServerContext* context,
                                               const v1::BackupDatabaseRequest*,
                                               v1::BackupDatabaseResponse* response) {
  return serve(*context, {.method = "BackupDatabase", .job_id = ""}, [&](Call&) -> Status {
    EMOE_ASSIGN_OR_RETURN(const Backup backup, store_.backup(SystemClock().wall_now()));
    response->set_path(backup.path.string());
    response->set_bytes(backup.bytes);
    response->set_sha256(backup.sha256);
    *response->mutable_time() = to_timestamp(backup.time);
    return ok_status();
  });
}

}  // namespace emoe::server
