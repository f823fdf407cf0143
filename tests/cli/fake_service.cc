#include "tests/cli/fake_service.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include "base/check.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace emoe::cli {
namespace {

template <typename Script, typename Request, typename Response>
grpc::Status answer(const Script& script, const Request& request, Response& response) {
  if (!script) return {grpc::StatusCode::UNIMPLEMENTED, "not scripted"};
  return script(request, response);
}

}  // namespace

FakeService::FakeService() {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  EMOE_CHECK(server_ != nullptr && port > 0);
  address_ = "127.0.0.1:" + std::to_string(port);
}

FakeService::~FakeService() {
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

std::vector<v1::CreateJobRequest> FakeService::create_requests() const {
  const std::lock_guard lock(mutex_);
  return create_requests_;
}

std::vector<int64_t> FakeService::watched_from() const {
  const std::lock_guard lock(mutex_);
  return watched_from_;
}

grpc::Status FakeService::CreateJob(grpc::ServerContext*, const v1::CreateJobRequest* request,
                                    v1::Job* job) {
  const std::lock_guard lock(mutex_);
  create_requests_.push_back(*request);
  return answer(create, *request, *job);
}

grpc::Status FakeService::GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                                 v1::Job* job) {
  if (get) return get(*request, *job);
  job->set_id(request->id());
  return grpc::Status::OK;
}

grpc::Status FakeService::ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request,
                                   v1::ListJobsResponse* response) {
  return answer(list, *request, *response);
}

grpc::Status FakeService::CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request,
                                    v1::Job* job) {
  return answer(cancel, *request, *job);
}

grpc::Status FakeService::ExportCheckpoint(grpc::ServerContext*,
                                           const v1::ExportCheckpointRequest* request,
                                           v1::Job* job) {
  return answer(export_checkpoint, *request, *job);
}

grpc::Status FakeService::ListMetrics(grpc::ServerContext*, const v1::ListMetricsRequest* request,
                                      v1::ListMetricsResponse* response) {
  return answer(metrics, *request, *response);
}

grpc::Status FakeService::ListCheckpoints(grpc::ServerContext*,
                                          const v1::ListCheckpointsRequest* request,
                                          v1::ListCheckpointsResponse* response) {
  return answer(checkpoints, *request, *response);
}

grpc::Status FakeService::GetJobLogs(grpc::ServerContext*, const v1::GetJobLogsRequest* request,
                                     v1::GetJobLogsResponse* response) {
  return answer(logs, *request, *response);
}

grpc::Status FakeService::WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                                   grpc::ServerWriter<v1::Event>* writer) {
  {
    const std::lock_guard lock(mutex_);
    watched_from_.push_back(request->from_sequence());
  }
  if (!watch) return {grpc::StatusCode::UNIMPLEMENTED, "not scripted"};
  return watch(context, *request, *writer);
}

Outcome emoectl_at(const std::string& server, std::vector<std::string> arguments, int err_width,
                   int out_width) {
  std::ostringstream out;
  std::ostringstream err;
  SystemClock clock;
  Terminal terminal{.out = out,
                    .err = err,
                    .clock = clock,
                    .out_width = out_width,
                    .err_width = err_width,
                    .retry_pause = std::chrono::milliseconds(5)};
  arguments.insert(arguments.begin(), {"--server", server});
  Outcome outcome;
  outcome.code = run(arguments, terminal);
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

Outcome emoectl(const FakeService& service, std::vector<std::string> arguments, int err_width,
                int out_width) {
  return emoectl_at(service.address(), std::move(arguments), err_width, out_width);
}

v1::Event state_event(int64_t sequence, v1::JobState to, v1::Reason reason) {
  v1::Event event;
  event.set_sequence(sequence);
  event.mutable_state_change()->set_to(to);
  event.mutable_state_change()->set_reason(reason);
  return event;
}

v1::Event step_event(int64_t sequence, int64_t step) {
  v1::Event event;
  event.set_sequence(sequence);
  event.mutable_step()->set_step(step);
  event.mutable_step()->set_loss(2.0);
  event.mutable_step()->set_tokens(100);
  event.mutable_step()->set_seconds(0.1);
  return event;
}

v1::Event phase_event(int64_t sequence, int64_t steps_planned) {
  v1::Event event;
  event.set_sequence(sequence);
  event.mutable_phase()->set_phase("train");
  event.mutable_phase()->set_steps_planned(steps_planned);
  return event;
}

}  // namespace emoe::cli
