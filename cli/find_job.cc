#include <map>

#include <absl/strings/str_cat.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace emoe::cli {
namespace {

// So many are asked for; whoever may mean more has to say more.
constexpr int kMostCandidates = 20;

// Lists the jobs as violations, which both forms of an error show.
grpc::Status ambiguous(const std::string& text, const std::map<std::string, v1::Job>& jobs) {
  google::rpc::BadRequest candidates;
  for (const auto& [id, job] : jobs) {
    auto& candidate = *candidates.add_field_violations();
    candidate.set_field(id);
    candidate.set_description(absl::StrCat(state_name(job.state()), " ", job.name()));
  }
  const std::string message =
      absl::StrCat("\"", text, "\" may mean ", jobs.size(), " jobs",
                   jobs.size() < kMostCandidates ? "" : " or more", "; give more of the id");
  google::rpc::Status details;
  details.add_details()->PackFrom(candidates);
  return {grpc::StatusCode::INVALID_ARGUMENT, message, details.SerializeAsString()};
}

}  // namespace

grpc::Status find_job(Client& client, std::string& job) {
  v1::Job exact;
  const grpc::Status got = client.get_job(job, exact);
  // What has a quote cannot stand in a filter.
  const bool nameable = !job.empty() && job.find('"') == std::string::npos;
  if (got.error_code() != grpc::StatusCode::NOT_FOUND || !nameable) return got;
  std::map<std::string, v1::Job> found;
  for (const char* key : {"id", "name"}) {
    v1::ListJobsRequest request;
    request.set_page_size(kMostCandidates);
    request.set_filter(absl::StrCat(key, "=\"", job, "\""));
    v1::ListJobsResponse page;
    const grpc::Status listed = client.call(&v1::FineTuning::Stub::ListJobs, request, page);
    if (!listed.ok()) return listed;
    for (const v1::Job& candidate : page.jobs()) found.emplace(candidate.id(), candidate);
  }
  if (found.empty()) return got;
  if (found.size() > 1) return ambiguous(job, found);
  job = found.begin()->first;
  return grpc::Status::OK;
}

}  // namespace emoe::cli
