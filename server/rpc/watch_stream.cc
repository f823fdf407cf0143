#include "server/rpc/watch_stream.h"

#include "server/rpc/grpc_status.h"

namespace emoe::server {
namespace {

// gRPC's callbacks only tell the hub.
class WatchStream final : public grpc::ServerWriteReactor<v1::Event>, public EventStream {
 public:
  explicit WatchStream(WatchHub& hub) : hub_(hub) {}

  void write(const v1::Event& event) override { StartWrite(&event); }
  void finish(const Status& status) override { Finish(to_grpc(status)); }

  void OnWriteDone(bool ok) override { hub_.written(this, ok); }
  void OnCancel() override { hub_.cancelled(this); }
  void OnDone() override { hub_.closed(this); }

 private:
  WatchHub& hub_;
};

// A stream that ends before it began.
class Refusal final : public grpc::ServerWriteReactor<v1::Event> {
 public:
  explicit Refusal(const Status& status) { Finish(to_grpc(status)); }
  void OnDone() override { delete this; }  // gRPC owns it until here
};

}  // namespace

grpc::ServerWriteReactor<v1::Event>* watch_job(WatchHub& hub, const v1::WatchJobRequest& request) {
  auto stream = std::make_shared<WatchStream>(hub);
  WatchStream* const reactor = stream.get();
  const Status taken = hub.watch(request.id(), request.from_sequence(), std::move(stream));
  if (!taken.ok()) return new Refusal(taken);
  return reactor;
}

}  // namespace emoe::server
