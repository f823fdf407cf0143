#pragma once

#include <memory>

#include <grpcpp/channel.h>

#include "worker/report/session_client.h"

namespace emoe::worker {

// A new connection to the coordinator, by TLS where the config names a CA: its files are read each time, so
// that a rank comes back to a coordinator that has changed its certificate.
[[nodiscard]] std::shared_ptr<grpc::Channel> session_channel(const SessionClient::Config& config);

}  // namespace emoe::worker
