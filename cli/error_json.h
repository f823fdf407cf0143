#pragma once

#include <string>

#include <grpcpp/support/status.h>

#include "base/status.h"

namespace emoe::cli {

// A failed call for scripts: google.rpc.Status in protobuf's JSON, on one line with a newline; the
// details (ErrorInfo, BadRequest, …) carry "@type". docs/ERRORS.md lists the reasons.
[[nodiscard]] std::string error_json(const grpc::Status& status);
// The same for errors found before anything was sent; violations name file and line.
[[nodiscard]] std::string error_json(const Status& status);

}  // namespace emoe::cli
