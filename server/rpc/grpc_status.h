#pragma once

#include <grpcpp/support/status.h>

#include "base/status.h"

namespace emoe::server {

// An error for the wire: canonical code, message, and a google.rpc.Status in the details with
// ErrorInfo (domain "emoe.v1"), a BadRequest with a FieldViolation per violation, and RetryInfo and
// QuotaFailure where they belong (QUEUE_FULL, DRAINING).
[[nodiscard]] grpc::Status to_grpc(const Status& status);

// "INVALID_ARGUMENT", for metrics labels.
[[nodiscard]] std::string code_name(grpc::StatusCode code);

}  // namespace emoe::server
