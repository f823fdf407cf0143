// Exceptions inside the callbacks of streams: each ends its own stream with INTERNAL, and the server
// goes on. They come from collaborators made to throw.
#include <atomic>
#include <deque>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "emoe/v1/fine_tuning_service.grpc.pb.h"
#include "emoe/v1/worker_control_service.grpc.pb.h"
#include "server/rpc/watch_stream.h"
#include "server/rpc/worker_control_handler.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<grpc::Server> serve(grpc::Service& service) {
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  return builder.BuildAndStart();
}

void set_deadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + 20s);
}

class SessionFaults : public ::testing::Test {
 protected:
  grpc::Status join() {
    grpc::ClientContext context;
    set_deadline(context);
    const auto stream = stub_->Session(&context);
    v1::WorkerMessage message;
    message.mutable_join()->set_job_id("j");
    stream->Write(message);
    v1::CoordinatorMessage answer;
    if (stream->Read(&answer)) stream->WritesDone();
    return stream->Finish();
  }
  void take(const SessionMessage& message) {
    const bool joins = std::holds_alternative<v1::Join>(message.body);
    if (joins ? joins_throw_ : closings_throw_) throw std::length_error("inbox");
    if (joins) message.channel->welcome(0);
  }

  std::atomic<bool> joins_throw_ = false;
  std::atomic<bool> closings_throw_ = false;
  WorkerControlHandler handler_{[this](const SessionMessage& message) { take(message); }};
  std::unique_ptr<grpc::Server> server_ = serve(handler_);
  std::unique_ptr<v1::WorkerControl::Stub> stub_ =
      v1::WorkerControl::NewStub(server_->InProcessChannel({}));
};

TEST_F(SessionFaults, EndTheOneStream) {
  joins_throw_ = true;
  grpc::Status status = join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL) << status.error_message();
  EXPECT_EQ(status.error_message(), "unexpected: inbox");

  joins_throw_ = false;
  closings_throw_ = true;  // in the callbacks of a stream that ends
  status = join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL) << status.error_message();

  closings_throw_ = false;
  status = join();
  EXPECT_TRUE(status.ok()) << status.error_message();
  server_->Shutdown(std::chrono::system_clock::now() + 20s);
  EXPECT_EQ(handler_.streams(), 0U);
}

class FaultyClock final : public Clock {
 public:
  [[nodiscard]] SteadyTime steady_now() const override {
    if (faulty) throw std::runtime_error("no time");
    return clock_.steady_now();
  }
  [[nodiscard]] WallTime wall_now() const override { return clock_.wall_now(); }
  std::atomic<bool> faulty = false;

 private:
  SystemClock clock_;
};

class WatchFaults : public ::testing::Test {
 protected:
  class Service final
      : public v1::FineTuning::WithCallbackMethod_WatchJob<v1::FineTuning::Service> {
   public:
    explicit Service(WatchHub& hub) : hub_(hub) {}
    grpc::ServerWriteReactor<v1::Event>* WatchJob(grpc::CallbackServerContext* context,
                                                  const v1::WatchJobRequest* request) override {
      return watch_job(hub_, *context, *request, [] { return true; });
    }

   private:
    WatchHub& hub_;
  };

  void SetUp() override {
    auto store = JobStore::open({dir_ / "state"});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    Change change;
    change.job.emplace();
    change.job->job.set_id("j");
    change.job->job.set_state(v1::RUNNING);
    ASSERT_TRUE(store_->commit(change).ok());
    hub_ = std::make_unique<WatchHub>(WatchHub::Config{.heartbeat = 10ms}, *store_, clock_);
    service_ = std::make_unique<Service>(*hub_);
    server_ = serve(*service_);
    stub_ = v1::FineTuning::NewStub(server_->InProcessChannel({}));
  }
  void TearDown() override {
    hub_->drain(absl::UnavailableError("the end"));
    server_->Shutdown(std::chrono::system_clock::now() + 20s);
    hub_->stop();
  }
  std::unique_ptr<grpc::ClientReader<v1::Event>> watch(grpc::ClientContext& context) {
    set_deadline(context);
    v1::WatchJobRequest request;
    request.set_id("j");
    return stub_->WatchJob(&context, request);
  }

  testing::TempDir dir_;
  FaultyClock clock_;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<WatchHub> hub_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::FineTuning::Stub> stub_;
};

TEST_F(WatchFaults, EndTheStreamsAndTheHubGoesOn) {
  v1::Event event;
  grpc::ClientContext before;
  const auto running = watch(before);
  ASSERT_TRUE(running->Read(&event));  // a heartbeat
  clock_.faulty = true;
  while (running->Read(&event)) {
  }
  EXPECT_EQ(running->Finish().error_code(), grpc::StatusCode::INTERNAL);
  grpc::ClientContext during;
  const grpc::Status refused = watch(during)->Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(refused.error_message(), "unexpected: no time");

  clock_.faulty = false;
  grpc::ClientContext after;
  EXPECT_TRUE(watch(after)->Read(&event));
}

}  // namespace
}  // namespace emoe::server
