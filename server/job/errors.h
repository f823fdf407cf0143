#pragma once

#include <map>
#include <string>

#include "base/status.h"

namespace emoe::server {

// The machine-readable part of an error for clients: becomes a google.rpc.ErrorInfo of domain
// "emoe.v1". Every reason stands in docs/ERRORS.md.
struct ErrorDetail {
  std::string reason;  // "QUEUE_FULL"; empty: the status carries none
  std::map<std::string, std::string> metadata;
};

[[nodiscard]] Status make_error(StatusCode code, const std::string& reason,
                                const std::string& message,
                                const std::map<std::string, std::string>& metadata = {});
// The same status with a reason, where it has none yet (violations and text stay).
[[nodiscard]] Status with_reason(Status status, const std::string& reason);
[[nodiscard]] ErrorDetail error_detail_of(const Status& status);

// The errors that more than one place returns.
[[nodiscard]] Status job_not_found(const std::string& id);
[[nodiscard]] Status store_failed(const Status& cause);  // INTERNAL / STORE_FAILED

}  // namespace emoe::server
