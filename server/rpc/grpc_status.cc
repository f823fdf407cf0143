#include "server/rpc/grpc_status.h"

#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/job/errors.h"
#include "server/rpc/utf8.h"

namespace emoe::server {
namespace {

constexpr char kDomain[] = "emoe.v1";

// A reason for errors that nobody gave one: the code's own name.
std::string default_reason(const Status& status) {
  return code_name(static_cast<grpc::StatusCode>(status.code()));
}

// Message and details travel in HTTP/2 headers, of which a client by default accepts 8 KiB in all,
// the details in base64.
constexpr size_t kLongestMessage = 1000;
constexpr size_t kLargestDetails = 4500;

// Rather fewer violations than an error that cannot be read at all.
void fit_into_header(google::rpc::Status& rich) {
  int dropped = 0;
  for (google::protobuf::Any& any : *rich.mutable_details()) {
    google::rpc::BadRequest bad;
    if (!any.UnpackTo(&bad)) continue;
    auto& fields = *bad.mutable_field_violations();
    while (rich.ByteSizeLong() > kLargestDetails && fields.size() > 1) {
      const int keep = fields.size() * 3 / 4;
      dropped += fields.size() - keep;
      fields.DeleteSubrange(keep, fields.size() - keep);
      any.PackFrom(bad);
    }
    if (dropped > 0) {
      bad.add_field_violations()->set_description(
          absl::StrCat("and ", dropped, " more problems that do not fit into the answer"));
      any.PackFrom(bad);
    }
  }
}

void add_violations(const std::vector<Violation>& violations, google::rpc::Status& rich) {
  if (violations.empty()) return;
  google::rpc::BadRequest bad;
  for (const Violation& v : violations) {
    // A data row is named by its place, a key of the spec by the key.
    google::rpc::BadRequest::FieldViolation& field = *bad.add_field_violations();
    field.set_field(to_valid_utf8(v.location.empty() ? v.field : v.location));
    const bool both = !v.location.empty() && !v.field.empty();
    field.set_description(to_valid_utf8(both ? absl::StrCat(v.field, ": ", v.reason) : v.reason));
  }
  rich.add_details()->PackFrom(bad);
}

void add_retry(int seconds, google::rpc::Status& rich) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(seconds);
  rich.add_details()->PackFrom(retry);
}

}  // namespace

grpc::Status to_grpc(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = to_valid_utf8(std::string(status.message()));
  const ErrorDetail detail = error_detail_of(status);

  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(shorten_utf8(message, kLongestMessage / 2));
  google::rpc::ErrorInfo info;
  info.set_reason(detail.reason.empty() ? default_reason(status) : detail.reason);
  info.set_domain(kDomain);
  for (const auto& [key, value] : detail.metadata)
    (*info.mutable_metadata())[key] = to_valid_utf8(value);
  rich.add_details()->PackFrom(info);
  add_violations(violations_of(status), rich);
  if (detail.reason == "QUEUE_FULL") {
    google::rpc::QuotaFailure quota;
    google::rpc::QuotaFailure::Violation& violation = *quota.add_violations();
    violation.set_subject("queue.max_jobs");
    violation.set_description(message);
    rich.add_details()->PackFrom(quota);
    add_retry(30, rich);
  }
  if (detail.reason == "DRAINING") add_retry(5, rich);
  fit_into_header(rich);
  return {code, shorten_utf8(message, kLongestMessage), rich.SerializeAsString()};
}

std::string code_name(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace emoe::server
