#include "cli/error_json.h"

#include <google/protobuf/util/json_util.h>

#include "base/check.h"
#include "base/diagnostics.h"
#include "cli/format.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace emoe::cli {
namespace {

std::string one_line(const google::rpc::Status& status) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto written = google::protobuf::util::MessageToJsonString(status, &text, options);
  if (written.ok()) return text + "\n";
  // A detail of a type that this program does not know.
  google::rpc::Status without_details = status;
  without_details.clear_details();
  EMOE_CHECK(google::protobuf::util::MessageToJsonString(without_details, &text, options).ok());
  return text + "\n";
}

}  // namespace

std::string error_json(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.Clear();
  details.set_code(status.error_code());
  details.set_message(printable_lines(status.error_message()));
  return one_line(details);
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
  return one_line(details);
}

}  // namespace emoe::cli
