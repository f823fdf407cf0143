#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include <grpcpp/server.h>

#include "base/clock.h"
#include "cli/command.h"
#include "emoe/v1/fine_tuning_service.grpc.pb.h"

namespace emoe::cli {

// A FineTuning service on a free port whose answers a test scripts; it keeps what it was asked.
// Calls without a script answer UNIMPLEMENTED; GetJob knows every id.
class FakeService final : public v1::FineTuning::Service {
 public:
  FakeService();
  ~FakeService() override;
  [[nodiscard]] const std::string& address() const { return address_; }

  std::function<grpc::Status(const v1::CreateJobRequest&, v1::Job&)> create;
  std::function<grpc::Status(const v1::GetJobRequest&, v1::Job&)> get;
  std::function<grpc::Status(const v1::ListJobsRequest&, v1::ListJobsResponse&)> list;
  std::function<grpc::Status(const v1::CancelJobRequest&, v1::Job&)> cancel;
  std::function<grpc::Status(const v1::ExportCheckpointRequest&, v1::Job&)> export_checkpoint;
  std::function<grpc::Status(const v1::ListMetricsRequest&, v1::ListMetricsResponse&)> metrics;
  std::function<grpc::Status(const v1::ListCheckpointsRequest&, v1::ListCheckpointsResponse&)>
      checkpoints;
  std::function<grpc::Status(const v1::GetJobLogsRequest&, v1::GetJobLogsResponse&)> logs;
  // Called once for each stream with what to write to.
  std::function<grpc::Status(grpc::ServerContext*, const v1::WatchJobRequest&,
                             grpc::ServerWriter<v1::Event>&)>
      watch;

  [[nodiscard]] std::vector<v1::CreateJobRequest> create_requests() const;
  [[nodiscard]] std::vector<int64_t> watched_from() const;

  grpc::Status CreateJob(grpc::ServerContext* context, const v1::CreateJobRequest* request,
                         v1::Job* job) override;
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                      v1::Job* job) override;
  grpc::Status ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override;
  grpc::Status CancelJob(grpc::ServerContext* context, const v1::CancelJobRequest* request,
                         v1::Job* job) override;
  grpc::Status ExportCheckpoint(grpc::ServerContext* context,
                                const v1::ExportCheckpointRequest* request, v1::Job* job) override;
  grpc::Status ListMetrics(grpc::ServerContext* context, const v1::ListMetricsRequest* request,
                           v1::ListMetricsResponse* response) override;
  grpc::Status ListCheckpoints(grpc::ServerContext* context,
                               const v1::ListCheckpointsRequest* request,
                               v1::ListCheckpointsResponse* response) override;
  grpc::Status GetJobLogs(grpc::ServerContext* context, const v1::GetJobLogsRequest* request,
                          v1::GetJobLogsResponse* response) override;
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::Event>* writer) override;

 private:
  mutable std::mutex mutex_;
  std::vector<v1::CreateJobRequest> create_requests_;
  std::vector<int64_t> watched_from_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

// An emoectl call with its output.
struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};
Outcome emoectl(const FakeService& service, std::vector<std::string> arguments, int err_width = 0,
                int out_width = 0);
Outcome emoectl_at(const std::string& server, std::vector<std::string> arguments, int err_width = 0,
                   int out_width = 0);

// Events as a server numbers them.
v1::Event state_event(int64_t sequence, v1::JobState to,
                      v1::Reason reason = v1::REASON_UNSPECIFIED);
v1::Event step_event(int64_t sequence, int64_t step);
v1::Event phase_event(int64_t sequence, int64_t steps_planned);
}  // namespace emoe::cli
