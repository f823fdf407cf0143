#include "server/rpc/grpc_status.h"

#include <chrono>
#include <cstdlib>

#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "base/utf8.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/job/errors.h"

namespace emoe::server {
namespace {

using namespace std::chrono_literals;

constexpr char kDomain[] = "emoe.v1";

// Message and details travel in HTTP/2 headers, of which a client by default accepts 8 KiB in all:
// the message with three bytes for each that is not printable ASCII, the details in base64.
constexpr size_t kLargestMessage = 1500;  // as it travels
constexpr size_t kLargestDetails = 4500;  // 6000 in base64
constexpr size_t kLongestText = 300;      // each text in the details

std::string text_for_details(const std::string& text) {
  return shorten_utf8(to_valid_utf8(text), kLongestText);
}

std::string text_for_message(const std::string& text) {
  size_t size = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool plain = text[i] >= ' ' && text[i] <= '~' && text[i] != '%';
    size += plain ? 1 : 3;
    if (size > kLargestMessage) return shorten_utf8(text, i);
  }
  return text;
}

// As many of the violations as fit, and the number of the others.
void add_violations(const Status& status, google::rpc::Status& rich) {
  const std::vector<Violation> violations = violations_of(status);
  if (violations.empty()) return;
  google::rpc::BadRequest bad;
  size_t left = kLargestDetails - rich.ByteSizeLong() - 2 * kLongestText;  // for what follows
  size_t omitted = dropped_violations_of(status) + violations.size();
  for (const Violation& v : violations) {
    // A data row is named by its place, a key of the spec by the key.
    google::rpc::BadRequest::FieldViolation field;
    field.set_field(text_for_details(v.location.empty() ? v.field : v.location));
    const bool both = !v.location.empty() && !v.field.empty();
    field.set_description(
        text_for_details(both ? absl::StrCat(v.field, ": ", v.reason) : v.reason));
    const size_t size = field.ByteSizeLong() + 4;  // its tag and length
    if (size > left) break;
    left -= size;
    --omitted;
    *bad.add_field_violations() = std::move(field);
  }
  if (omitted > 0) {
    bad.add_field_violations()->set_description(
        absl::StrCat("and ", omitted, " more problems that do not fit into the answer"));
  }
  rich.add_details()->PackFrom(bad);
}

void add_retry(std::chrono::milliseconds pause, google::rpc::Status& rich) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(pause.count() / 1000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(pause.count() % 1000 * 1'000'000));
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
  rich.set_message(text_for_details(message));
  google::rpc::ErrorInfo info;
  info.set_reason(detail.reason.empty() ? code_name(code) : detail.reason);
  info.set_domain(kDomain);
  for (const auto& [key, value] : detail.metadata)
    (*info.mutable_metadata())[key] = text_for_details(value);
  rich.add_details()->PackFrom(info);
  add_violations(status, rich);
  if (detail.reason == "QUEUE_FULL" || detail.reason == "QUOTA_EXCEEDED") {
    google::rpc::QuotaFailure quota;
    google::rpc::QuotaFailure::Violation& violation = *quota.add_violations();
    const auto named = detail.metadata.find("quota");
    violation.set_subject(named == detail.metadata.end() ? "queue.max_jobs" : named->second);
    violation.set_description(text_for_details(message));
    rich.add_details()->PackFrom(quota);
  }
  if (detail.reason == "QUEUE_FULL") add_retry(30s, rich);
  if (detail.reason == "DRAINING") add_retry(5s, rich);
  if (const auto wait = detail.metadata.find("retry_milliseconds"); wait != detail.metadata.end()) {
    add_retry(std::chrono::milliseconds(std::atoll(wait->second.c_str())), rich);
  }
  return {code, text_for_message(message), rich.SerializeAsString()};
}

Status without_exceptions(const std::function<Status()>& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("unexpected: ", error.what()));
  }
}

std::string code_name(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace emoe::server
