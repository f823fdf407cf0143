#pragma once

#include <functional>

#include <grpcpp/support/server_callback.h>

#include "emoe/v1/fine_tuning_service.pb.h"
#include "server/rpc/watch_hub.h"

namespace emoe::server {

// One WatchJob call as a stream of the hub; ends at once with the hub's error if it refuses. It is
// cancelled once `allowed`, asked now and then when there is something to write, says no. The reactor
// belongs to gRPC until its OnDone.
[[nodiscard]] grpc::ServerWriteReactor<v1::Event>* watch_job(WatchHub& hub,
                                                             grpc::CallbackServerContext& context,
                                                             const v1::WatchJobRequest& request,
                                                             std::function<bool()> allowed);

}  // namespace emoe::server
