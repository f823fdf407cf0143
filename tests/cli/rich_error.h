#pragma once

#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace emoe::cli {

// A status with ErrorInfo and field violations, as the coordinator answers.
inline grpc::Status rich_error(
    grpc::StatusCode code, const std::string& message, const std::string& reason,
    const std::vector<std::pair<std::string, std::string>>& violations = {}) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("emoe.v1");
  details.add_details()->PackFrom(info);
  google::rpc::BadRequest bad;
  for (const auto& [field, description] : violations) {
    auto& violation = *bad.add_field_violations();
    violation.set_field(field);
    violation.set_description(description);
  }
  if (!violations.empty()) details.add_details()->PackFrom(bad);
  return {code, message, details.SerializeAsString()};
}

}  // namespace emoe::cli
