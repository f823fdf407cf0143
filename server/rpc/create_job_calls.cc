#include "server/rpc/create_job_calls.h"

#include <string>

#include <grpcpp/support/async_unary_call.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>
#include <pthread.h>

namespace emoe::server {
namespace {

// One reads while the other answers. More would only wake each other.
constexpr int kThreads = 2;
// How many calls may begin at once; others wait in gRPC.
constexpr int kAwaited = 16;

}  // namespace

// From being awaited to its answer; it is its own tag in the queue and ends itself.
class CreateJobCalls::OneCall {
 public:
  explicit OneCall(CreateJobCalls& calls) : calls_(calls), writer_(&context_) {
    auto* const queue = calls.queue_.get();
    calls.handler_.RequestCreateJob(&context_, &request_, &writer_, queue, queue, this);
  }
  // It has come, or its answer is sent; not `ok`: neither will happen any more.
  void proceed(bool ok) {
    if (come_ || !ok) {
      delete this;
      return;
    }
    come_ = true;
    new OneCall(calls_);
    calls_.handler_.create_job(
        context_, request_,
        [this](const grpc::Status& status, const std::string& job) { finish(status, job); });
  }

 private:
  void finish(const grpc::Status& status, const std::string& job) {
    if (!status.ok()) return writer_.FinishWithError(status, this);
    const grpc::Slice slice(job);
    writer_.Finish(grpc::ByteBuffer(&slice, 1), status, this);
  }

  CreateJobCalls& calls_;
  bool come_ = false;
  grpc::ServerContext context_;
  grpc::ByteBuffer request_;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> writer_;
};

CreateJobCalls::CreateJobCalls(FineTuningHandler& handler, grpc::ServerBuilder& builder)
    : handler_(handler), queue_(builder.AddCompletionQueue()) {}

CreateJobCalls::~CreateJobCalls() {
  queue_->Shutdown();
  if (threads_.empty()) serve();  // a queue must be empty when it goes
}

void CreateJobCalls::start() {
  for (int i = 0; i < kAwaited; ++i) new OneCall(*this);
  for (int i = 0; i < kThreads; ++i) {
    threads_.emplace_back([this] {
      pthread_setname_np(pthread_self(), "create-job");
      serve();
    });
  }
}

void CreateJobCalls::serve() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) static_cast<OneCall*>(tag)->proceed(ok);
}

}  // namespace emoe::server
