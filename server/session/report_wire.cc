#include "server/session/report_wire.h"

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/delimited_message_util.h>

#include "base/attempt_contract.h"
#include "base/file.h"

namespace emoe::server {

RankReport report_from_wire(const v1::Report& report) {
  RankReport result;
  result.sequence = report.sequence();
  switch (report.kind_case()) {
    case v1::Report::kStep: {
      StepReport step;
      if (report.step().has_metrics()) step.metrics = report.step().metrics();
      result.body = std::move(step);
      break;
    }
    case v1::Report::kEval:
      result.body = report.eval();
      break;
    case v1::Report::kCheckpoint:
      result.body = report.checkpoint();
      break;
    case v1::Report::kResumed:
      result.body = ResumeReport{report.resumed()};
      break;
    case v1::Report::kLog:
      result.body = report.log();
      break;
    case v1::Report::kPhase:
      result.body = report.phase();
      break;
    case v1::Report::kMerge:
      result.body = report.merge();
      break;
    case v1::Report::kEnd:
      result.body = EndReport{report.end().exit_code(), report.end().message()};
      break;
    case v1::Report::KIND_NOT_SET:
      break;  // of a newer worker: acknowledged, not understood
  }
  return result;
}

Result<std::vector<RankReport>> read_left_reports(const std::filesystem::path& attempt_dir,
                                                  int rank) {
  const auto path = attempt_dir / left_reports_file(rank);
  std::vector<RankReport> reports;
  auto bytes = read_file(path);
  if (bytes.status().code() == StatusCode::kNotFound) return reports;
  EMOE_RETURN_IF_ERROR(bytes.status());
  google::protobuf::io::ArrayInputStream stream(bytes->data(), static_cast<int>(bytes->size()));
  v1::Report report;
  bool at_end = false;
  while (google::protobuf::util::ParseDelimitedFromZeroCopyStream(&report, &stream, &at_end)) {
    reports.push_back(report_from_wire(report));
    report.Clear();
  }
  if (reports.empty() && !bytes->empty()) {
    return absl::DataLossError(absl::StrCat(path.string(), " holds no reports"));
  }
  return reports;
}

}  // namespace emoe::server
