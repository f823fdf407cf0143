#include "server/session/left_reports.h"

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/delimited_message_util.h>

#include "base/attempt_contract.h"
#include "base/file.h"

namespace emoe::server {

Result<std::vector<v1::Report>> read_left_reports(const std::filesystem::path& attempt_dir,
                                                  int rank) {
  const auto path = attempt_dir / left_reports_file(rank);
  std::vector<v1::Report> reports;
  auto bytes = read_file(path);
  if (bytes.status().code() == StatusCode::kNotFound) return reports;
  EMOE_RETURN_IF_ERROR(bytes.status());
  google::protobuf::io::ArrayInputStream stream(bytes->data(), static_cast<int>(bytes->size()));
  v1::Report report;
  bool at_end = false;
  while (google::protobuf::util::ParseDelimitedFromZeroCopyStream(&report, &stream, &at_end)) {
    reports.push_back(report);
    report.Clear();
  }
  if (reports.empty() && !bytes->empty()) {
    return absl::DataLossError(absl::StrCat(path.string(), " holds no reports"));
  }
  return reports;
}

}  // namespace emoe::server
