#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "emoe/v1/fine_tuning_service.grpc.pb.h"
#include "server/control/controller.h"
#include "server/job/admission_cache.h"
#include "server/rpc/call_guard.h"
#include "server/rpc/call_threads.h"
#include "server/rpc/requests.h"
#include "server/rpc/watch_hub.h"

namespace emoe::server {

// FineTuning on the wire: reads requests, asks admission, controller and store, maps errors. Unary
// calls run on gRPC's bounded thread pool, because they read data files and may take long; watching uses
// callbacks, and CreateJob, of which many wait for one commit, comes through a completion queue
// (CreateJobCalls). The errors of each call stand in the proto file. Thread-safe.
class FineTuningHandler final
    : public v1::FineTuning::WithRawMethod_CreateJob<
          v1::FineTuning::WithCallbackMethod_WatchJob<v1::FineTuning::Service>> {
 public:
  struct Info {
    std::string launcher;
    WallTime start_time;
  };
  FineTuningHandler(Controller& controller, JobStore& store, WatchHub& watches,
                    CoordinatorProbe& probe, CallGuard& guard, AdmissionConfig admission,
                    const Clock& clock, Info info, int max_threads);

  // From now on every call answers UNAVAILABLE / DRAINING.
  void drain() { draining_ = true; }

  // Takes a call whose bytes are a v1::CreateJobRequest, and returns at once. `answer` is called once,
  // here or in another thread, with the bytes of the v1::Job; `context` outlives that.
  using Answer = std::function<void(const grpc::Status&, const std::string& job)>;
  void create_job(const grpc::ServerContextBase& context, grpc::ByteBuffer& request, Answer answer);
  grpc::Status CreateJobs(grpc::ServerContext*, const v1::CreateJobsRequest*,
                          v1::CreateJobsResponse*) override;
  grpc::Status PlanJob(grpc::ServerContext*, const v1::PlanJobRequest*,
                       v1::PlanJobResponse*) override;
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest*, v1::Job*) override;
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest*,
                        v1::ListJobsResponse*) override;
  grpc::Status UpdateJob(grpc::ServerContext*, const v1::UpdateJobRequest*, v1::Job*) override;
  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest*, v1::Job*) override;
  grpc::Status PauseJob(grpc::ServerContext*, const v1::PauseJobRequest*, v1::Job*) override;
  grpc::Status ResumeJob(grpc::ServerContext*, const v1::ResumeJobRequest*, v1::Job*) override;
  grpc::Status DeleteJob(grpc::ServerContext*, const v1::DeleteJobRequest*,
                         google::protobuf::Empty*) override;
  grpc::Status ListMetrics(grpc::ServerContext*, const v1::ListMetricsRequest*,
                           v1::ListMetricsResponse*) override;
  grpc::Status ListCheckpoints(grpc::ServerContext*, const v1::ListCheckpointsRequest*,
                               v1::ListCheckpointsResponse*) override;
  grpc::Status ExportCheckpoint(grpc::ServerContext*, const v1::ExportCheckpointRequest*,
                                v1::Job*) override;
  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::ServerInfo*) override;
  grpc::Status GetJobLogs(grpc::ServerContext*, const v1::GetJobLogsRequest*,
                          v1::GetJobLogsResponse*) override;
  grpc::Status BackupDatabase(grpc::ServerContext*, const v1::BackupDatabaseRequest*,
                              v1::BackupDatabaseResponse*) override;
  grpc::Status ListAuditEntries(grpc::ServerContext*, const v1::ListAuditEntriesRequest*,
                                v1::ListAuditEntriesResponse*) override;
  grpc::ServerWriteReactor<v1::Event>* WatchJob(grpc::CallbackServerContext*,
                                                const v1::WatchJobRequest*) override;

 private:
  // Runs one call: refuses while draining and what the guard refuses, maps errors and exceptions, measures,
  // and has the guard write down what came of it.
  grpc::Status serve(const grpc::ServerContextBase& context, Call call,
                     const std::function<Status(Call&)>& body);
  // What serve() does before and after the body.
  [[nodiscard]] Status let_in(const grpc::ServerContextBase& context, Call& call);
  [[nodiscard]] grpc::Status conclude(const Call& call, Status status,
                                      std::chrono::steady_clock::time_point begin);
  // One CreateJob on its way, see create_job.cc.
  struct Creating;
  [[nodiscard]] std::optional<Submission> recall(Creating& creating);
  [[nodiscard]] Status admit_new(Creating& creating, std::optional<Submission>& submission);
  void submit(const std::shared_ptr<Creating>& creating, Submission submission);
  void end(Creating& creating, Status status);
  // The answer to a call about a job that is not the caller's to see: that of a job that does not exist, asked
  // at the place where that would be found out. A repeated request is the caller's own.
  [[nodiscard]] Status check_visible(const Call& call, const RequestKey& key = {});
  // Below which the caller's jobs may name files; empty: anywhere.
  [[nodiscard]] std::vector<std::filesystem::path> roots_of(const Call& call) const;
  // Nothing where the caller sees all.
  [[nodiscard]] static std::optional<std::string> visible_project(const Call& call);
  [[nodiscard]] Submitter submitter_of(const Call& call) const;
  // RESOURCE_EXHAUSTED / QUOTA_EXCEEDED where the project's output folders and `needed` bytes would be too
  // large.
  [[nodiscard]] Status check_disk_quota(const Call& call, int64_t needed);

  Controller& controller_;
  JobStore& store_;
  WatchHub& watches_;
  CoordinatorProbe& probe_;
  CallGuard& guard_;
  AdmissionCache admission_;
  const Info info_;
  std::atomic<bool> draining_ = false;
  CallThreads threads_;  // for new jobs whose files have to be read; last member: it stops first
};

[[nodiscard]] Status draining_status();
// Of a job that admission knew.
[[nodiscard]] Submission submission_of(v1::JobSpec spec, Recalled recalled, Submitter by);

// A repeat of a request is one of the same project: its answer is a job of that one.
template <typename Request>
RequestKey key_of(const Call& call, const Request& request, Diagnostics& problems) {
  RequestKey key = request_key(call.method, request.request_id(), request, problems);
  key.scope = call.who.project;
  return key;
}

}  // namespace emoe::server
