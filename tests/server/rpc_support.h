#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include "emoe/v1/fine_tuning_service.grpc.pb.h"
#include "emoe/v1/worker_control_service.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/rpc/rpc_server.h"
#include "tests/server/support.h"
#include "tests/support/held_port.h"

namespace emoe::server {

// For what comes at once unless the machine is busy with other things.
constexpr std::chrono::seconds kPatience{60};

// A coordinator as main builds it, in this process on a free port, with a fake engine.
class RpcTest : public CoordinatorTest<SystemClock> {
 protected:
  using Context = grpc::ClientContext;

  void SetUp() override {
    config_.max_jobs = 200;
    config_.stop_grace = std::chrono::milliseconds(200);
    config_.retry_pause = std::chrono::milliseconds(20);
    config_.poll_interval = std::chrono::milliseconds(5);
    rpc_config_.watch.heartbeat = std::chrono::milliseconds(100);
    rpc_config_.listen = port_.address();  // a restarted coordinator keeps its address
    start();
  }
  void TearDown() override { stop(); }

  void start() {
    start_controller();
    auto server = RpcServer::start(rpc_config_, *controller_, *store_, clock_, probe_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    controller_->set_coordinator_address(server_->address());
    loops_ = start_loops();
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    jobs_ = v1::FineTuning::NewStub(channel_);
    ranks_ = v1::WorkerControl::NewStub(channel_);
  }
  void stop() {
    if (server_) {
      EXPECT_TRUE(server_->shutdown().ok());
    }
    loops_.clear();
    server_.reset();
    drop_controller();
  }

  v1::CreateJobRequest create_request(int ranks = 1) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = small_spec(dir_.path(), ranks);
    return request;
  }
  std::string submit(int ranks = 1) {
    Context context;
    v1::Job job;
    const grpc::Status status = jobs_->CreateJob(&context, create_request(ranks), &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job.id();
  }
  v1::Job get(const std::string& id) {
    Context context;
    v1::GetJobRequest request;
    request.set_id(id);
    v1::Job job;
    EXPECT_TRUE(jobs_->GetJob(&context, request, &job).ok());
    return job;
  }
  v1::Job cancel(const std::string& id) {
    Context context;
    v1::CancelJobRequest request;
    request.set_id(id);
    v1::Job job;
    const grpc::Status status = jobs_->CancelJob(&context, request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }
  // Follows the job's events up to its terminal state.
  v1::JobState wait_for_end(const std::string& id) {
    Context context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    v1::WatchJobRequest request;
    request.set_id(id);
    auto stream = jobs_->WatchJob(&context, request);
    v1::Event event;
    v1::JobState last = v1::JOB_STATE_UNSPECIFIED;
    while (stream->Read(&event)) {
      if (event.has_state_change()) last = event.state_change().to();
    }
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return last;
  }

  static google::rpc::Status rich(const grpc::Status& status) {
    google::rpc::Status result;
    EXPECT_TRUE(result.ParseFromString(status.error_details()));
    return result;
  }
  template <typename Detail>
  static Detail detail(const grpc::Status& status) {
    Detail found;
    const google::rpc::Status all = rich(status);
    for (const auto& any : all.details()) {
      if (any.Is<Detail>()) any.UnpackTo(&found);
    }
    return found;
  }
  static std::string reason(const grpc::Status& status) {
    return detail<google::rpc::ErrorInfo>(status).reason();
  }

  testing::HeldPort port_;
  RpcServer::Config rpc_config_;
  std::unique_ptr<RpcServer> server_;
  std::vector<std::jthread> loops_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::FineTuning::Stub> jobs_;
  std::unique_ptr<v1::WorkerControl::Stub> ranks_;
};

// One rank's side of the session, as emoe-worker keeps it.
class RankClient {
 public:
  RankClient(v1::WorkerControl::Stub& stub, const launcher::LaunchRequest& launch, int rank,
             int world_size)
      : launch_(launch), rank_(rank), world_size_(world_size) {
    context_.set_deadline(std::chrono::system_clock::now() + kPatience);
    stream_ = stub.Session(&context_);
  }
  // The committed sequence, or -1 when refused.
  int64_t join() {
    v1::WorkerMessage message;
    *message.mutable_join() =
        make_join(launch_.job_id, launch_.attempt, launch_.environment.at("EMOE_ATTEMPT_TOKEN"),
                  rank_, world_size_);
    stream_->Write(message);
    v1::CoordinatorMessage answer;
    if (!stream_->Read(&answer) || !answer.has_welcome()) return -1;
    sequence_ = answer.welcome().committed_sequence();
    return sequence_;
  }
  void beat(int64_t step) {
    v1::WorkerMessage message;
    *message.mutable_heartbeat() = make_heartbeat(step, "forward", 0, 0);
    stream_->Write(message);
  }
  void send(const std::function<void(v1::Report&)>& fill) {
    v1::WorkerMessage message;
    message.mutable_report()->set_sequence(++sequence_);
    fill(*message.mutable_report());
    stream_->Write(message);
  }
  void send_step(int64_t step) {
    send([&](v1::Report& report) {
      report.mutable_step();
      if (rank_ != 0) return;  // without metrics: as workers of earlier versions sent it
      v1::StepMetrics& metrics = *report.mutable_step()->mutable_metrics();
      metrics.set_step(step);
      metrics.set_loss(1.5);
      metrics.set_tokens(100);
      metrics.set_seconds(0.1);
    });
  }
  void send_end(int code) {
    send([&](v1::Report& report) { report.mutable_end()->set_exit_code(code); });
  }
  // Reads until everything sent is acknowledged; false when the stream ended before.
  bool wait_for_acks() {
    v1::CoordinatorMessage answer;
    while (acked_ < sequence_) {
      if (!stream_->Read(&answer)) return false;
      if (answer.has_ack()) acked_ = answer.ack().sequence();
      if (answer.has_command()) command_ = answer.command().kind();
    }
    return true;
  }
  v1::Command::Kind wait_for_command() {
    v1::CoordinatorMessage answer;
    while (command_ == v1::Command::KIND_UNSPECIFIED && stream_->Read(&answer)) {
      if (answer.has_command()) command_ = answer.command().kind();
    }
    return command_;
  }
  grpc::Status finish() {
    v1::CoordinatorMessage ignored;
    while (stream_->Read(&ignored)) {
    }
    return stream_->Finish();
  }
  void drop() { context_.TryCancel(); }

 private:
  launcher::LaunchRequest launch_;
  int rank_;
  int world_size_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>> stream_;
  int64_t sequence_ = 0;
  int64_t acked_ = 0;
  v1::Command::Kind command_ = v1::Command::KIND_UNSPECIFIED;
};

}  // namespace emoe::server
