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

}  // namespace

grpc::ServerWriteReactor<v1::Event>* watch_job(WatchHub& hub, const v1::WatchJobRequest& request) {
  WatchStream* reactor = nullptr;
  const Status taken = without_exceptions([&] {
    auto stream = std::make_shared<WatchStream>(hub);
    reactor = stream.get();
    return hub.watch(request.id(), request.from_sequence(), std::move(stream));
  });
  if (!taken.ok()) return new Refusal<grpc::ServerWriteReactor<v1::Event>>(taken);
  return reactor;
}

}  // namespace emoe::server
