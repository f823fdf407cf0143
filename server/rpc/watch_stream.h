#pragma once

#include <grpcpp/support/server_callback.h>

#include "emoe/v1/fine_tuning_service.pb.h"
#include "server/rpc/watch_hub.h"

namespace emoe::server {

// One WatchJob call as a stream of the hub; ends at once with the hub's error if it refuses. The
// reactor belongs to gRPC until its OnDone.
[[nodiscard]] grpc::ServerWriteReactor<v1::Event>* watch_job(WatchHub& hub,
                                                             const v1::WatchJobRequest& request);

}  // namespace emoe::server
