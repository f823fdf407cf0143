#include "server/job/errors.h"

#include <vector>

#include <absl/strings/cord.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

namespace emoe::server {
namespace {

constexpr char kPayloadType[] = "emoe/error_detail";
constexpr char kUnit = '\x1f';

}  // namespace

Status make_error(StatusCode code, const std::string& reason, const std::string& message,
                  const std::map<std::string, std::string>& metadata) {
  std::string payload = reason;
  for (const auto& [key, value] : metadata) {
    payload.append(1, kUnit).append(key).append(1, kUnit).append(value);
  }
  Status status(code, message);
  status.SetPayload(kPayloadType, absl::Cord(payload));
  return status;
}

Status with_reason(Status status, const std::string& reason) {
  if (!status.ok() && !status.GetPayload(kPayloadType)) {
    status.SetPayload(kPayloadType, absl::Cord(reason));
  }
  return status;
}

ErrorDetail error_detail_of(const Status& status) {
  const auto payload = status.GetPayload(kPayloadType);
  if (!payload) return {};
  const std::vector<std::string> parts = absl::StrSplit(std::string(*payload), kUnit);
  ErrorDetail detail{parts[0], {}};
  for (size_t i = 1; i + 1 < parts.size(); i += 2) detail.metadata[parts[i]] = parts[i + 1];
  return detail;
}

Status job_not_found(const std::string& id) {
  return make_error(StatusCode::kNotFound, "JOB_NOT_FOUND",
                    absl::StrCat("there is no job \"", id, "\""), {{"job_id", id}});
}

Status store_failed(const Status& cause) {
  return make_error(StatusCode::kInternal, "STORE_FAILED", std::string(cause.message()));
}

}  // namespace emoe::server
