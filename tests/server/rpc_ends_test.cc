// How a coordinator's server begins and ends: the port, draining, a bounded shutdown.
#include <atomic>
#include <mutex>

#include <grpcpp/generic/generic_stub.h>

#include "tests/server/rpc_support.h"

namespace emoe::server {
namespace {

using RpcEndsTest = RpcTest;

// grpc.health.v1.Health/Watch by its bytes, since its messages are not generated for C++.
class HealthWatch {
 public:
  static constexpr int kServing = 1;
  static constexpr int kNotServing = 2;

  explicit HealthWatch(const std::shared_ptr<grpc::Channel>& channel) : stub_(channel) {
    context_.set_deadline(std::chrono::system_clock::now() + kPatience);
    stream_ = stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_);
    stream_->StartCall(nullptr);
    EXPECT_TRUE(done());
    grpc::Slice nothing;  // every field at its default
    stream_->WriteLast(grpc::ByteBuffer(&nothing, 1), {}, nullptr);
    EXPECT_TRUE(done());
  }
  ~HealthWatch() {
    context_.TryCancel();
    grpc::Status status;
    stream_->Finish(&status, nullptr);
    EXPECT_TRUE(done());
    queue_.Shutdown();
  }
  // The next HealthCheckResponse.status; -1 at the end.
  int next() {
    grpc::ByteBuffer message;
    stream_->Read(&message, nullptr);
    if (!done()) return -1;
    grpc::Slice bytes;
    if (!message.DumpToSingleSlice(&bytes).ok() || bytes.size() != 2) return -1;
    return bytes.begin()[1];  // field 1, a varint
  }

 private:
  bool done() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
};

TEST_F(RpcEndsTest, DrainingIsSeenBeforeThePortCloses) {
  HealthWatch health(channel_);
  EXPECT_EQ(health.next(), HealthWatch::kServing);
  server_->drain();
  EXPECT_EQ(health.next(), HealthWatch::kNotServing);
  Context context;
  v1::Job job;
  const grpc::Status status = jobs_->CreateJob(&context, create_request(), &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(reason(status), "DRAINING");
  EXPECT_EQ(detail<google::rpc::RetryInfo>(status).retry_delay().seconds(), 5);
  EXPECT_TRUE(store_->count_by_state()->empty());
}

TEST_F(RpcEndsTest, AShutdownDoesNotWaitForEverForACall) {
  stop();
  std::mutex disk;  // held: the disk does not answer
  std::atomic<bool> waiting = false;
  before_commit_ = [&]() -> Status {
    waiting = true;
    const std::lock_guard lock(disk);
    return ok_status();
  };
  rpc_config_.shutdown_limit = std::chrono::milliseconds(100);
  start();
  disk.lock();
  std::jthread client([&] {
    Context context;
    v1::Job job;
    jobs_->CreateJob(&context, create_request(), &job);
  });
  while (!waiting) std::this_thread::yield();
  EXPECT_EQ(server_->shutdown().code(), StatusCode::kDeadlineExceeded);
  disk.unlock();
  while (!server_->shutdown().ok()) {
  }
  client = {};
  stop();
}

// Many submits wait for one commit: they hold no thread that another call could use.
TEST_F(RpcEndsTest, SubmitsThatWaitForTheDiskHoldNoThread) {
  stop();
  std::mutex disk;
  std::atomic<bool> waiting = false;
  before_commit_ = [&]() -> Status {
    waiting = true;
    const std::lock_guard lock(disk);
    return ok_status();
  };
  rpc_config_.max_threads = 4;
  start();
  (void)submit();  // its files are known from now on
  waiting = false;
  disk.lock();
  constexpr int kSubmits = 40;
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < kSubmits; ++i) {
      clients.emplace_back([&] {
        Context context;
        v1::Job job;
        const grpc::Status status = jobs_->CreateJob(&context, create_request(), &job);
        EXPECT_TRUE(status.ok()) << status.error_message();
        if (status.ok() && job.state() == v1::QUEUED && job.has_update_time()) ++good;
      });
    }
    while (!waiting) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));  // for the others to come in
    Context context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    v1::ListAuditEntriesResponse entries;
    const grpc::Status status = jobs_->ListAuditEntries(&context, {}, &entries);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(good, 0) << "none is answered before it is stored";
    disk.unlock();
  }
  EXPECT_EQ(good, kSubmits);
  stop();  // before what a commit asks for is gone
}

TEST(CallThreads, CarryOutEverythingBeforeTheyEnd) {
  std::atomic<int> done = 0;
  {
    CallThreads threads(3);
    for (int i = 0; i < 50; ++i) {
      threads.run([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        ++done;
      });
    }
  }
  EXPECT_EQ(done, 50);
}

TEST_F(RpcEndsTest, APortInUseIsAClearError) {
  auto second = RpcServer::start(rpc_config_, *controller_, *store_, clock_, probe_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(std::string(second.status().message()).find("in use"), std::string::npos);
}

}  // namespace
}  // namespace emoe::server
