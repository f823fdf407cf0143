// What FineTuningHandler's calls have in common: who makes them, on whose jobs, and what is written down.
#include <chrono>
#include <filesystem>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "server/job/errors.h"
#include "server/rpc/fine_tuning_handler.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/requests.h"

namespace emoe::server {

grpc::Status FineTuningHandler::serve(const grpc::ServerContextBase& context, Call call,
                                      const std::function<Status(Call&)>& body) {
  const auto begin = std::chrono::steady_clock::now();
  Status status = without_exceptions([&]() -> Status {
    EMOE_RETURN_IF_ERROR(let_in(context, call));
    return body(call);
  });
  return conclude(call, std::move(status), begin);
}

Status FineTuningHandler::let_in(const grpc::ServerContextBase& context, Call& call) {
  call.peer = context.peer();
  return draining_ ? draining_status() : guard_.admit(context, call);
}

grpc::Status FineTuningHandler::conclude(const Call& call, Status status,
                                         std::chrono::steady_clock::time_point begin) {
  if (status.code() == StatusCode::kInternal) status = with_reason(status, "INTERNAL");
  if (!draining_) guard_.record(call, status);
  const grpc::Status answer = to_grpc(status);
  probe_.rpc(call.method, code_name(answer.error_code()),
             std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return answer;
}

Status FineTuningHandler::check_visible(const Call& call, const RequestKey& key) {
  if (call.who.role == Role::admin) return ok_status();
  EMOE_ASSIGN_OR_RETURN(const auto first, controller_.answered(key));
  if (first) return ok_status();
  EMOE_ASSIGN_OR_RETURN(const auto project, store_.project_of(call.job_id));
  return !project || call.who.may_see(*project) ? ok_status() : job_not_found(call.job_id);
}

std::vector<std::filesystem::path> FineTuningHandler::roots_of(const Call& call) const {
  const auto& own = call.who.allowed_roots;
  if (own.empty()) return admission_.config().allowed_roots;
  return {own.begin(), own.end()};
}

std::optional<std::string> FineTuningHandler::visible_project(const Call& call) {
  if (call.who.role == Role::admin) return std::nullopt;
  return call.who.project;
}

Submitter FineTuningHandler::submitter_of(const Call& call) const {
  Submitter by{.project = call.who.project, .owner = call.who.name};
  for (const auto& root : roots_of(call)) by.allowed_roots.push_back(root.string());
  return by;
}

Status FineTuningHandler::check_disk_quota(const Call& call, int64_t needed) {
  const std::string& project = call.who.project;
  const int64_t limit = quota_of(controller_.config().quotas, project).disk;
  if (limit == 0) return ok_status();
  EMOE_ASSIGN_OR_RETURN(const auto folders, store_.output_folders(project));
  const int64_t used = bytes_below(folders);
  if (used + needed <= limit) return ok_status();
  return quota_exceeded(
      project, "disk", limit,
      absl::StrCat("its output folders have ", used, " bytes, and this job would add ", needed));
}

grpc::Status FineTuningHandler::ListAuditEntries(grpc::ServerContext* context,
                                                 const v1::ListAuditEntriesRequest* request,
                                                 v1::ListAuditEntriesResponse* response) {
  return serve(*context, {.method = "ListAuditEntries"}, [&](Call&) -> Status {
    Diagnostics problems;
    const int size = parse_page_size(request->page_size(), 50, 1000, problems);
    const auto wanted = parse_audit_filter(request->filter());
    if (!wanted.ok()) problems.add("filter", std::string(wanted.status().message()));
    const std::string fingerprint = absl::StrCat("audit\n", request->filter());
    const auto token = parse_page_token(fingerprint, request->page_token(), problems);
    std::optional<AuditLog::Cursor> after;
    if (token) {
      after = AuditLog::Cursor();
      AuditLog::Cursor& cursor = *after;
      if (!absl::SimpleAtoi(token->key, &cursor.end) ||
          !absl::SimpleAtoi(token->id, &cursor.inode)) {
        problems.add("page_token", "is damaged");
      }
    }
    EMOE_RETURN_IF_ERROR(bad_request(problems));
    if (guard_.audit() == nullptr) return ok_status();
    EMOE_ASSIGN_OR_RETURN(auto page, guard_.audit()->list(*wanted, after, size));
    if (!page) {
      problems.add("page_token",
                   "is of an audit file that was renamed since; start from the first page");
      return bad_request(problems);
    }
    for (v1::AuditEntry& entry : page->entries) *response->add_entries() = std::move(entry);
    if (page->next) {
      response->set_next_page_token(make_page_token(fingerprint, absl::StrCat(page->next->end),
                                                    absl::StrCat(page->next->inode)));
    }
    return ok_status();
  });
}

}  // namespace emoe::server
