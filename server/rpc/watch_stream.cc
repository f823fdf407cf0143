#include "server/rpc/watch_stream.h"

#include <chrono>
#include <utility>

#include <grpcpp/server_context.h>

#include "server/rpc/grpc_status.h"

namespace emoe::server {
namespace {

// gRPC's callbacks only tell the hub.
class WatchStream final : public grpc::ServerWriteReactor<v1::Event>, public EventStream {
 public:
  WatchStream(WatchHub& hub, grpc::CallbackServerContext& context, std::function<bool()> allowed)
      : hub_(hub), context_(context), allowed_(std::move(allowed)) {}

  // Of a cancelled call the write fails, which ends it.
  void write(const v1::Event& event) override {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ > kAskEvery) {
      asked_ = now;
      if (!allowed_()) context_.TryCancel();
    }
    StartWrite(&event);
  }
  void finish(const Status& status) override { Finish(to_grpc(status)); }

  void OnWriteDone(bool ok) override { hub_.written(this, ok); }
  void OnCancel() override { hub_.cancelled(this); }
  void OnDone() override { hub_.closed(this); }

 private:
  static constexpr std::chrono::seconds kAskEvery{1};
  WatchHub& hub_;
  grpc::CallbackServerContext& context_;  // valid until OnDone
  const std::function<bool()> allowed_;
  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
};

}  // namespace

grpc::ServerWriteReactor<v1::Event>* watch_job(WatchHub& hub, grpc::CallbackServerContext& context,
                                               const v1::WatchJobRequest& request,
                                               std::function<bool()> allowed) {
  WatchStream* reactor = nullptr;
  const Status taken = without_exceptions([&] {
    auto stream = std::make_shared<WatchStream>(hub, context, std::move(allowed));
    reactor = stream.get();
    return hub.watch(request.id(), request.from_sequence(), std::move(stream));
  });
  if (!taken.ok()) return new Refusal<grpc::ServerWriteReactor<v1::Event>>(taken);
  return reactor;
}

}  // namespace emoe::server
