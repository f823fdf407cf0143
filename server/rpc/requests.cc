#include "server/rpc/requests.h"

#include <memory>

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "base/diagnostics.h"
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

// The new values obey the same rules as in a spec; what else a spec needs is no matter here.
void check_values(const v1::UpdateJobRequest& request, Diagnostics& problems) {
  Diagnostics all;
  config::validate(config::resolve(request.spec()), {}, all);
  for (const Violation& violation : all.violations()) {
    for (const std::string& path : request.update_mask().paths()) {
      if (violation.field == path || violation.field.starts_with(path + ".")) {
        problems.add("spec." + violation.field, violation.reason);
      }
    }
  }
}

}  // namespace

Result<RequestKey> request_key(const std::string& method, const std::string& request_id,
                               const google::protobuf::Message& request) {
  if (request_id.size() > 128) {
    return make_error(StatusCode::kInvalidArgument, "INVALID_REQUEST_ID",
                      "request_id is longer than 128 characters");
  }
  const std::unique_ptr<google::protobuf::Message> body(request.New());
  body->CopyFrom(request);
  const auto* field = body->GetDescriptor()->FindFieldByName("request_id");
  if (field != nullptr) body->GetReflection()->ClearField(body.get(), field);
  return RequestKey{request_id, method, sha256_hex(deterministic_bytes(*body))};
}

Result<JobUpdate> parse_update(const v1::UpdateJobRequest& request) {
  JobUpdate update;
  Diagnostics problems;
  if (request.update_mask().paths().empty()) problems.add("update_mask", "names no field");
  for (const std::string& path : request.update_mask().paths()) {
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
  if (!problems.empty()) return with_reason(problems.to_status(), "INVALID_UPDATE_MASK");
  return update;
}

}  // namespace emoe::server
