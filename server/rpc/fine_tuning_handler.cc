#include "server/rpc/fine_tuning_handler.h"

#include <filesystem>
#include <limits>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "base/attempt_contract.h"
#include "base/version.h"
#include "server/job/errors.h"
#include "server/job/job_state_machine.h"
#include "server/job/job_warnings.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/requests.h"
#include "server/rpc/watch_stream.h"

namespace emoe::server {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// The step that a page of a list in the order of steps begins with: its token's, or `first`.
int64_t first_step(const std::string& fingerprint, const std::string& token, int64_t first,
                   Diagnostics& problems) {
  const auto cursor = parse_page_token(fingerprint, token, problems);
  if (cursor && !absl::SimpleAtoi(cursor->key, &first)) problems.add("page_token", "is damaged");
  return first;
}

// Answers a call whose result is a Job.
Status answer(Result<v1::Job> result, v1::Job& job) {
  EMOE_RETURN_IF_ERROR(result.status());
  job = *std::move(result);
  return ok_status();
}

}  // namespace

Status draining_status() {
  return make_error(StatusCode::kUnavailable, "DRAINING",
                    "the coordinator is shutting down; running jobs go on, try again soon");
}

FineTuningHandler::FineTuningHandler(Controller& controller, JobStore& store, WatchHub& watches,
                                     CoordinatorProbe& probe, CallGuard& guard,
                                     AdmissionConfig admission, const Clock& clock, Info info,
                                     int max_threads)
    : controller_(controller),
      store_(store),
      watches_(watches),
      probe_(probe),
      guard_(guard),
      admission_(std::move(admission), clock),
      info_(std::move(info)),
      threads_(max_threads) {}

grpc::Status FineTuningHandler::PlanJob(grpc::ServerContext* context,
                                        const v1::PlanJobRequest* request,
                                        v1::PlanJobResponse* response) {
  return serve(*context, {.method = "PlanJob", .job_id = ""}, [&](Call& call) -> Status {
    Diagnostics problems;
    Findings found;
    AdmissionConfig admission = admission_.config();
    admission.allowed_roots = roots_of(call);
    const v1::JobSpec resolved = admit(request->spec(), admission, problems, &found);
    EMOE_RETURN_IF_ERROR(bad_request(problems, "INVALID_SPEC"));
    EMOE_RETURN_IF_ERROR(
        controller_.check_capacity({.spec = {}, .resolved = resolved, .by = submitter_of(call)}));
    EMOE_RETURN_IF_ERROR(check_disk_quota(call, found.plan.disk().total_bytes()));
    *response->mutable_resolved_spec() = resolved;
    *response->mutable_plan() = found.plan;
    *response->mutable_plan()->mutable_queue() = controller_.queue_plan(resolved);
    *response->mutable_data() = found.data;
    for (const Warning& warning : problems.warnings()) {
      *response->add_warnings() = to_message(warning);
    }
    return ok_status();
  });
}

grpc::Status FineTuningHandler::GetJob(grpc::ServerContext* context,
                                       const v1::GetJobRequest* request, v1::Job* job) {
  return serve(*context, {.method = "GetJob", .job_id = request->id()}, [&](Call& call) -> Status {
    EMOE_RETURN_IF_ERROR(check_visible(call));
    return answer(controller_.get(request->id()), *job);
  });
}

grpc::Status FineTuningHandler::ListJobs(grpc::ServerContext* context,
                                         const v1::ListJobsRequest* request,
                                         v1::ListJobsResponse* response) {
  return serve(*context, {.method = "ListJobs", .job_id = ""}, [&](Call& call) -> Status {
    EMOE_ASSIGN_OR_RETURN(JobQuery query, parse_list_request(*request));
    query.visible_project = visible_project(call);
    EMOE_ASSIGN_OR_RETURN(auto page, store_.list(query));
    controller_.decorate(page.jobs);
    for (v1::Job& job : page.jobs) {
      leave_for_list(job);
      *response->add_jobs() = std::move(job);
    }
    if (page.next) {
      response->set_next_page_token(
          make_page_token(list_fingerprint(*request), page.next->key, page.next->id));
    }
    return ok_status();
  });
}

grpc::Status FineTuningHandler::UpdateJob(grpc::ServerContext* context,
                                          const v1::UpdateJobRequest* request, v1::Job* job) {
  return serve(
      *context, {.method = "UpdateJob", .job_id = request->id()}, [&](Call& call) -> Status {
        Diagnostics problems;
        const RequestKey key = key_of(call, *request, problems);
        if (problems.empty()) {
          EMOE_ASSIGN_OR_RETURN(const auto first, controller_.answered(key));
          if (first) return answer(*first, *job);
        }
        const JobUpdate update = parse_update(*request, problems);
        EMOE_RETURN_IF_ERROR(bad_request(problems, "INVALID_UPDATE_MASK"));
        EMOE_RETURN_IF_ERROR(check_visible(call, key));
        return answer(controller_.update(request->id(), update, request->etag(), key), *job);
      });
}

grpc::Status FineTuningHandler::CancelJob(grpc::ServerContext* context,
                                          const v1::CancelJobRequest* request, v1::Job* job) {
  return serve(*context, {.method = "CancelJob", .job_id = request->id()},
               [&](Call& call) -> Status {
                 Diagnostics problems;
                 const RequestKey key = key_of(call, *request, problems);
                 EMOE_RETURN_IF_ERROR(bad_request(problems));
                 EMOE_RETURN_IF_ERROR(check_visible(call, key));
                 return answer(controller_.cancel(request->id(), request->message(), key), *job);
               });
}

grpc::Status FineTuningHandler::PauseJob(grpc::ServerContext* context,
                                         const v1::PauseJobRequest* request, v1::Job* job) {
  return serve(*context, {.method = "PauseJob", .job_id = request->id()},
               [&](Call& call) -> Status {
                 Diagnostics problems;
                 const RequestKey key = key_of(call, *request, problems);
                 EMOE_RETURN_IF_ERROR(bad_request(problems));
                 EMOE_RETURN_IF_ERROR(check_visible(call, key));
                 return answer(controller_.pause(request->id(), key), *job);
               });
}

grpc::Status FineTuningHandler::ResumeJob(grpc::ServerContext* context,
                                          const v1::ResumeJobRequest* request, v1::Job* job) {
  return serve(*context, {.method = "ResumeJob", .job_id = request->id()},
               [&](Call& call) -> Status {
                 Diagnostics problems;
                 const RequestKey key = key_of(call, *request, problems);
                 EMOE_RETURN_IF_ERROR(bad_request(problems));
                 EMOE_RETURN_IF_ERROR(check_visible(call, key));
                 return answer(controller_.resume(request->id(), key), *job);
               });
}

grpc::Status FineTuningHandler::DeleteJob(grpc::ServerContext* context,
                                          const v1::DeleteJobRequest* request,
                                          google::protobuf::Empty*) {
  return serve(
      *context, {.method = "DeleteJob", .job_id = request->id()}, [&](Call& call) -> Status {
        Diagnostics problems;
        const RequestKey key = key_of(call, *request, problems);
        EMOE_RETURN_IF_ERROR(bad_request(problems));
        EMOE_RETURN_IF_ERROR(check_visible(call, key));
        return controller_.remove(request->id(), request->etag(), request->delete_outputs(), key);
      });
}

grpc::Status FineTuningHandler::ListMetrics(grpc::ServerContext* context,
                                            const v1::ListMetricsRequest* request,
                                            v1::ListMetricsResponse* response) {
  return serve(
      *context, {.method = "ListMetrics", .job_id = request->id()}, [&](Call& call) -> Status {
        Diagnostics problems;
        const int size = parse_page_size(request->page_size(), 1000, 10000, problems);
        const std::string fingerprint =
            absl::StrCat("metrics\n", request->id(), "\n", request->from_step());
        const int64_t from =
            first_step(fingerprint, request->page_token(), request->from_step(), problems);
        EMOE_RETURN_IF_ERROR(bad_request(problems));
        EMOE_RETURN_IF_ERROR(check_visible(call));
        EMOE_RETURN_IF_ERROR(controller_.get(request->id()).status());
        EMOE_ASSIGN_OR_RETURN(auto steps, store_.steps(request->id(), from, size + 1));
        int64_t end = kNoLimit;
        if (static_cast<int>(steps.size()) > size) {
          end = steps.back().step();
          response->set_next_page_token(make_page_token(fingerprint, absl::StrCat(end), ""));
          steps.pop_back();
        }
        EMOE_ASSIGN_OR_RETURN(auto evals, store_.evals(request->id(), from, end));
        for (v1::StepMetrics& step : steps) *response->add_steps() = std::move(step);
        for (v1::EvalResult& eval : evals) *response->add_evals() = std::move(eval);
        return ok_status();
      });
}

grpc::Status FineTuningHandler::ListCheckpoints(grpc::ServerContext* context,
                                                const v1::ListCheckpointsRequest* request,
                                                v1::ListCheckpointsResponse* response) {
  return serve(
      *context, {.method = "ListCheckpoints", .job_id = request->id()}, [&](Call& call) -> Status {
        Diagnostics problems;
        const int size = parse_page_size(request->page_size(), 50, 1000, problems);
        const std::string fingerprint = absl::StrCat("checkpoints\n", request->id());
        const int64_t newest = first_step(fingerprint, request->page_token(), kNoLimit, problems);
        EMOE_RETURN_IF_ERROR(bad_request(problems));
        EMOE_RETURN_IF_ERROR(check_visible(call));
        EMOE_RETURN_IF_ERROR(controller_.get(request->id()).status());
        EMOE_ASSIGN_OR_RETURN(auto checkpoints, store_.checkpoints(request->id(), newest));
        for (v1::CheckpointInfo& checkpoint : checkpoints) {
          std::error_code ignored;
          const auto manifest = std::filesystem::path(checkpoint.path()) / kCheckpointManifestFile;
          if (!std::filesystem::exists(manifest, ignored)) continue;
          if (response->checkpoints_size() == size) {
            response->set_next_page_token(
                make_page_token(fingerprint, absl::StrCat(checkpoint.step()), ""));
            break;
          }
          *response->add_checkpoints() = std::move(checkpoint);
        }
        return ok_status();
      });
}

grpc::Status FineTuningHandler::ExportCheckpoint(grpc::ServerContext* context,
                                                 const v1::ExportCheckpointRequest* request,
                                                 v1::Job* job) {
  return serve(
      *context, {.method = "ExportCheckpoint", .job_id = request->id()}, [&](Call& call) -> Status {
        Diagnostics problems;
        const RequestKey key = key_of(call, *request, problems);
        if (request->step() < 0) problems.add("step", "must not be negative");
        EMOE_RETURN_IF_ERROR(bad_request(problems));
        EMOE_RETURN_IF_ERROR(check_visible(call, key));
        EMOE_ASSIGN_OR_RETURN(const auto first, controller_.answered(key));
        if (first) return answer(*first, *job);
        EMOE_ASSIGN_OR_RETURN(const JobRecord trained, store_.job(request->id()));
        Controller::ExportRoom room{
            .plan = plan_of_export(trained.job.plan(), admission_.config().capacity)};
        Call owner = call;  // whose quota it takes
        owner.who.project = trained.job.project();
        room.status = check_fits(room.plan);
        room.status.Update(check_disk_quota(owner, room.plan.disk().total_bytes()));
        return answer(controller_.export_checkpoint(request->id(), request->step(), key, room),
                      *job);
      });
}

grpc::Status FineTuningHandler::GetServerInfo(grpc::ServerContext* context,
                                              const v1::GetServerInfoRequest*,
                                              v1::ServerInfo* info) {
  return serve(*context, {.method = "GetServerInfo", .job_id = ""}, [&](Call& call) -> Status {
    std::map<v1::JobState, int> counts = controller_.counts();
    if (const auto project = visible_project(call)) {
      EMOE_ASSIGN_OR_RETURN(counts, store_.count_by_state(project));
    }
    for (const auto& [state, count] : counts) {
      (*info->mutable_jobs_by_state())[to_string(state)] = count;
    }
    const Controller::Slots slots = controller_.slots();
    info->set_version(version());
    info->set_api_version("emoe.v1");
    info->set_slots_total(slots.total);
    info->set_slots_free(slots.free);
    info->mutable_hosts()->Add(slots.hosts.begin(), slots.hosts.end());
    info->set_launcher(info_.launcher);
    for (const auto& root : roots_of(call)) info->add_allowed_roots(root.string());
    *info->mutable_start_time() = to_timestamp(info_.start_time);
    if (call.who.role == Role::admin) info->set_state_dir(controller_.config().state_dir.string());
    info->set_address(controller_.coordinator_address());
    return ok_status();
  });
}

grpc::Status FineTuningHandler::GetJobLogs(grpc::ServerContext* context,
                                           const v1::GetJobLogsRequest* request,
                                           v1::GetJobLogsResponse* response) {
  return serve(
      *context, {.method = "GetJobLogs", .job_id = request->id()}, [&](Call& call) -> Status {
        Diagnostics problems;
        if (request->max_bytes() < 0) problems.add("max_bytes", "must not be negative");
        EMOE_RETURN_IF_ERROR(bad_request(problems));
        EMOE_RETURN_IF_ERROR(check_visible(call));
        EMOE_ASSIGN_OR_RETURN(const v1::Job job, controller_.get(request->id()));
        const int newest = newest_attempt(job);
        if (request->attempt() < 0 || request->attempt() > newest) {
          return make_error(StatusCode::kOutOfRange, "NO_SUCH_ATTEMPT",
                            absl::StrCat("job ", job.id(), " has attempts 1 to ", newest));
        }
        const int attempt = request->attempt() == 0 ? newest : request->attempt();
        response->set_attempt(attempt);
        if (attempt == 0) return ok_status();  // nothing was started yet
        constexpr int kDefault = 64 << 10;
        constexpr int kLargest = 1 << 20;
        const int bytes =
            request->max_bytes() == 0 ? kDefault : std::min(request->max_bytes(), kLargest);
        EMOE_ASSIGN_OR_RETURN(launcher::LogTail tail,
                              controller_.log(job.id(), attempt, static_cast<size_t>(bytes)));
        response->set_text(std::move(tail.text));
        response->set_truncated(tail.truncated);
        return ok_status();
      });
}

grpc::ServerWriteReactor<v1::Event>* FineTuningHandler::WatchJob(
    grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) {
  Call call{.method = "WatchJob", .job_id = request->id(), .peer = context->peer()};
  const Status status = without_exceptions([&]() -> Status {
    if (draining_) return draining_status();
    EMOE_RETURN_IF_ERROR(guard_.admit(*context, call));
    return check_visible(call);
  });
  if (!status.ok()) return new Refusal<grpc::ServerWriteReactor<v1::Event>>(status);
  return watch_job(watches_, *context, *request, guard_.still_admits(*context, call));
}

}  // namespace emoe::server
