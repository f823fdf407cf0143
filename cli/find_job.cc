#include <algorithm>
#include <vector>

#include <absl/strings/str_cat.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace emoe::cli {
namespace {

// Lists the jobs as violations, which both forms of an error show.
grpc::Status ambiguous(const std::string& text, const std::vector<v1::Job>& jobs) {
  constexpr size_t kMost = 20;
  google::rpc::BadRequest candidates;
  for (size_t i = 0; i < std::min(jobs.size(), kMost); ++i) {
    auto& candidate = *candidates.add_field_violations();
    candidate.set_field(jobs[i].id());
    candidate.set_description(absl::StrCat(state_name(jobs[i].state()), " ", jobs[i].name()));
  }
  const std::string message =
      absl::StrCat("\"", text, "\" may mean ", jobs.size(), " jobs; give more of the id",
                   jobs.size() > kMost ? absl::StrCat("; the newest ", kMost, " are") : "");
  google::rpc::Status details;
  details.add_details()->PackFrom(candidates);
  return {grpc::StatusCode::INVALID_ARGUMENT, message, details.SerializeAsString()};
}

}  // namespace

grpc::Status find_job(Client& client, std::string& job) {
  v1::Job exact;
  const grpc::Status got = client.get_job(job, exact);
  if (got.error_code() != grpc::StatusCode::NOT_FOUND || job.empty()) return got;
  v1::ListJobsRequest request;
  request.set_page_size(1000);
  v1::ListJobsResponse all;
  const grpc::Status listed = client.list(&v1::FineTuning::Stub::ListJobs, request,
                                          &v1::ListJobsResponse::jobs_size, 0, all);
  if (!listed.ok()) return listed;
  std::vector<v1::Job> found;
  for (const v1::Job& candidate : all.jobs()) {
    if (candidate.id().starts_with(job) || candidate.name() == job) found.push_back(candidate);
  }
  if (found.empty()) return got;
  if (found.size() > 1) return ambiguous(job, found);
  job = found.front().id();
  return grpc::Status::OK;
}

}  // namespace emoe::cli
