#include "server/rpc/requests.h"

#include <map>
#include <memory>
#include <set>

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "base/sha256.h"
#include "config/config.h"
#include "server/job/errors.h"

namespace emoe::server {
namespace {

// Maps in a fixed order, so that equal requests hash alike.
std::string deterministic_bytes(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

std::set<std::string> paths_of(const v1::UpdateJobRequest& request) {
  return {request.update_mask().paths().begin(), request.update_mask().paths().end()};
}

// The new values obey the same rules as in a spec; what else a spec needs is no matter here.
void check_values(const v1::UpdateJobRequest& request, Diagnostics& problems) {
  Diagnostics all;
  (void)config::check(request.spec(), {}, std::nullopt, all);
  for (const Violation& violation : all.violations()) {
    for (const std::string& path : paths_of(request)) {
      if (violation.field == path || violation.field.starts_with(path + ".")) {
        problems.add("spec." + violation.field, violation.reason);
      }
    }
  }
}

}  // namespace

Status bad_request(const Diagnostics& problems, const std::string& reason) {
  if (problems.empty()) return ok_status();
  static const std::map<std::string, std::string> kReasons{
      {"request_id", "INVALID_REQUEST_ID"}, {"page_size", "INVALID_PAGE_SIZE"},
      {"page_token", "INVALID_PAGE_TOKEN"}, {"filter", "INVALID_FILTER"},
      {"order_by", "INVALID_ORDER_BY"},     {"max_bytes", "INVALID_MAX_BYTES"}};
  const std::string& first = problems.violations().front().field;
  const bool by_field = reason.empty() || (first == "request_id" && problems.size() == 1);
  return with_reason(problems.to_status(), by_field ? kReasons.at(first) : reason);
}

RequestKey request_key(const std::string& method, const std::string& request_id,
                       const google::protobuf::Message& request, Diagnostics& problems) {
  if (request_id.size() > 128) problems.add("request_id", "is longer than 128 characters");
  const std::unique_ptr<google::protobuf::Message> body(request.New());
  body->CopyFrom(request);
  const auto* field = body->GetDescriptor()->FindFieldByName("request_id");
  if (field != nullptr) body->GetReflection()->ClearField(body.get(), field);
  return RequestKey{request_id, method, sha256_hex(deterministic_bytes(*body))};
}

JobUpdate parse_update(const v1::UpdateJobRequest& request, Diagnostics& problems) {
  JobUpdate update;
  if (request.update_mask().paths().empty()) problems.add("update_mask", "names no field");
  for (const std::string& path : paths_of(request)) {
    if (path == "resources.priority") {
      update.priority = request.spec().resources().priority();
    } else if (path == "name") {
      update.name = request.spec().name();
    } else if (path == "labels") {
      update.labels.emplace(request.spec().labels().begin(), request.spec().labels().end());
    } else {
      problems.add("update_mask",
                   absl::StrCat("\"", path,
                                "\" cannot be changed (resources.priority, labels and name can)"));
    }
  }
  check_values(request, problems);
  return update;
}

}  // namespace emoe::server
