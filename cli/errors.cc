#include "cli/errors.h"

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <google/protobuf/util/json_util.h>

#include "base/check.h"
#include "base/diagnostics.h"
#include "cli/format.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace emoe::cli {
namespace {

google::rpc::Status details_of(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.Clear();
  return details;
}

template <typename Detail>
bool find_detail(const google::rpc::Status& details, Detail& found) {
  for (const auto& any : details.details()) {
    if (any.UnpackTo(&found)) return true;
  }
  return false;
}

std::string violation_line(const google::rpc::BadRequest::FieldViolation& violation,
                           const config::KeyLocations& locations) {
  // A row of a data file ("train.jsonl:12") has its place already.
  const bool is_key =  // of several files: requests[3].spec.…
      config::is_job_key(violation.field()) || violation.field().starts_with("requests[");
  const std::string place = is_key ? config::locate(locations, violation.field()) : std::string();
  std::string line = "  ";
  for (const std::string& part : {place, violation.field()}) {
    if (!part.empty()) absl::StrAppend(&line, part, ": ");
  }
  return line + violation.description();
}

std::string detail_lines(const google::rpc::Status& details,
                         const config::KeyLocations& locations) {
  std::string out;
  google::rpc::BadRequest bad_request;
  if (find_detail(details, bad_request)) {
    for (const auto& violation : bad_request.field_violations()) {
      absl::StrAppend(&out, printable(violation_line(violation, locations)), "\n");
    }
  }
  google::rpc::QuotaFailure quota;
  if (find_detail(details, quota)) {
    for (const auto& violation : quota.violations()) {
      if (violation.description() == details.message()) continue;  // the headline
      absl::StrAppend(&out, "  ", printable(violation.subject()), ": ",
                      printable(violation.description()), "\n");
    }
  }
  google::rpc::RetryInfo retry;
  if (find_detail(details, retry)) {
    absl::StrAppend(&out, "  try again in ",
                    human_seconds(static_cast<double>(retry.retry_delay().seconds()) +
                                  static_cast<double>(retry.retry_delay().nanos()) * 1e-9),
                    "\n");
  }
  return out;
}

// A message that lists the violations itself is cut to what stands before them.
std::string headline(const std::string& message, const google::rpc::Status& details) {
  google::rpc::BadRequest bad;
  if (!find_detail(details, bad) || bad.field_violations_size() == 0) return printable(message);
  const int count = bad.field_violations_size();
  const std::string first_line = message.substr(0, message.find('\n'));
  if (first_line.find(bad.field_violations(0).description()) == std::string::npos) {
    return printable(first_line);
  }
  return absl::StrCat(count, count == 1 ? " problem" : " problems");
}

std::string json_line(const google::rpc::Status& status) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto written = google::protobuf::util::MessageToJsonString(status, &text, options);
  if (written.ok()) return text + "\n";
  google::rpc::Status without_details = status;  // one is of a type that this program does not know
  without_details.clear_details();
  EMOE_CHECK(google::protobuf::util::MessageToJsonString(without_details, &text, options).ok());
  return text + "\n";
}

int exit_code_of(v1::Reason reason) {
  switch (reason) {
    case v1::REASON_CONFIGURATION:
    case v1::REASON_PREFLIGHT:
      return kExitUsage;
    case v1::REASON_DATA:
      return kExitData;
    case v1::REASON_INTERNAL:
      return kExitInternal;
    case v1::REASON_PEER_LOST:
    case v1::REASON_HANG:
    case v1::REASON_START_FAILED:
    case v1::REASON_COORDINATOR_LOST:
      return kExitPeerLost;
    case v1::REASON_IO:
      return kExitIo;
    case v1::REASON_PREEMPTED:
      return kExitPreempted;
    case v1::REASON_NON_FINITE:
      return kExitNonFinite;
    case v1::REASON_OUT_OF_MEMORY:
      return kExitOutOfMemory;
    default:
      return kExitOther;
  }
}

// gRPC's words for a connection that failed at TLS, or may have, in those of a user.
std::string tls_trouble(const std::string& message) {
  const auto has = [&](const char* text) { return message.find(text) != std::string::npos; };
  if (has("WRONG_VERSION_NUMBER") || has("wrong version number")) {
    return " speaks no TLS: leave --tls-ca (EMOE_TLS_CA) out";
  }
  if (has("CERTIFICATE_VERIFY_FAILED") || has("certificate verify failed") || has("Peer name")) {
    return absl::StrCat(" is not whom it should be: ", printable(message),
                        "\n  its certificate must be made out for the name in --server, by the "
                        "authority in --tls-ca (EMOE_TLS_CA)");
  }
  if (has("andshake")) {
    return absl::StrCat(" does not agree on TLS: ", printable(message),
                        "\n  it may want a client's certificate (--tls-cert, --tls-key), or "
                        "refuse the one it got");
  }
  if (message.starts_with("empty address list")) {
    return ": TLS could not be set up: --tls-ca must hold certificates, --tls-key the key of "
           "--tls-cert";
  }
  if (has("Socket closed") || has("Connection reset")) {
    return absl::StrCat(
        " closed the connection before it answered: ", printable(message),
        "\n  it may have stopped, speak TLS (--tls-ca), want a client's certificate (--tls-cert,\n"
        "  --tls-key), or refuse the one it got (expired, or of another authority)");
  }
  return "";
}

}  // namespace

std::string error_text(const grpc::Status& status, const std::string& server,
                       const config::KeyLocations& locations) {
  const google::rpc::Status details = details_of(status);
  google::rpc::ErrorInfo info;
  const std::string reason = find_detail(details, info) ? info.reason() : "";
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && reason.empty()) {
    if (const std::string of_tls = tls_trouble(status.error_message()); !of_tls.empty()) {
      return absl::StrCat("error: UNAVAILABLE: ", server, of_tls, "\n");
    }
    return absl::StrCat("error: UNAVAILABLE: no coordinator at ", server, ": ",
                        printable(status.error_message()),
                        "\n  start emoe-coordinator, or name another with --server HOST:PORT or "
                        "EMOE_SERVER\n");
  }
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && reason.empty()) {
    return absl::StrCat("error: DEADLINE_EXCEEDED: no answer from ", server,
                        " in time; --timeout sets how long to wait\n");
  }
  return absl::StrCat(
      "error: ", absl::StatusCodeToString(static_cast<StatusCode>(status.error_code())),
      reason.empty() ? "" : absl::StrCat(" (", reason, ")"), ": ",
      headline(status.error_message(), details), "\n", detail_lines(details, locations));
}

std::string error_text(const Status& status) {
  const auto violations = violations_of(status);
  if (violations.empty()) {
    return absl::StrCat("error: ", printable(std::string(status.message())), "\n");
  }
  const size_t more = dropped_violations_of(status);
  const size_t count = violations.size() + more;
  std::string out = absl::StrCat("error: ", count, count == 1 ? " problem\n" : " problems\n");
  for (const auto& violation : violations) {
    absl::StrAppend(&out, "  ", printable(to_string(violation)), "\n");
  }
  if (more > 0) absl::StrAppend(&out, "  and ", more, " more\n");
  return out;
}

std::string error_json(const grpc::Status& status) {
  google::rpc::Status details = details_of(status);
  details.set_code(status.error_code());
  details.set_message(printable_lines(status.error_message()));
  return json_line(details);
}

std::string error_json(const Status& status) {
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(printable_lines(std::string(status.message())));
  google::rpc::BadRequest bad;
  for (const Violation& violation : violations_of(status)) {
    auto& entry = *bad.add_field_violations();
    const std::string place = violation.location.empty() ? "" : violation.location + ": ";
    entry.set_field(printable(violation.field));  // quoted from a file, which may be no UTF-8
    entry.set_description(printable(place + violation.reason));
  }
  if (bad.field_violations_size() > 0) details.add_details()->PackFrom(bad);
  return json_line(details);
}

int exit_code_of(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return kExitOk;
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::OUT_OF_RANGE:
      return kExitUsage;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return kExitUnavailable;
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::DATA_LOSS:
      return kExitInternal;
    default:
      return kExitOther;
  }
}

int exit_code_of(const v1::Job& job) {
  if (job.state() == v1::SUCCEEDED) return kExitOk;
  if (job.state() == v1::CANCELLED) return kExitOther;
  // The cause of the last attempt says more than that there were too many.
  if (job.reason() == v1::REASON_ATTEMPTS_EXHAUSTED && job.attempts_size() > 0) {
    return exit_code_of(job.attempts(job.attempts_size() - 1).reason());
  }
  return exit_code_of(job.reason());
}

}  // namespace emoe::cli
