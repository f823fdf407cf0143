#pragma once

#include "base/status.h"
#include "server/rpc/grpc_status.h"

namespace emoe::server {

// A stream that ends before it began; gRPC owns it until its OnDone.
template <typename Reactor>
class Refusal final : public Reactor {
 public:
  explicit Refusal(const Status& status) { this->Finish(to_grpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace emoe::server
