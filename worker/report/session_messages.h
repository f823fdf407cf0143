#pragma once

#include <deque>
#include <optional>
#include <string>

#include "emoe/v1/worker_control_service.pb.h"
#include "worker/report/progress_sink.h"
#include "worker/report/session_client.h"

namespace emoe::worker {

// Of the whole run, as people see it: all parts of a step are "train".
struct PhaseRecord {
  const char* phase = "";
  int64_t steps_planned = 0;
  int percent = 0;
};
[[nodiscard]] const char* to_progress_phase(Phase phase);

struct EndRecord {
  int exit_code = 0;
  std::string message;
  std::optional<SessionClient::Usage> usage;
};

// The content that `record` is in a report of proto/emoe/v1/report.proto.
void fill(v1::Report& report, const StepRecord& record);
void fill(v1::Report& report, const EvalRecord& record);
void fill(v1::Report& report, const CheckpointRecord& record);
void fill(v1::Report& report, const ResumeRecord& record);
void fill(v1::Report& report, const MergeRecord& record);
void fill(v1::Report& report, const PreflightRecord& record);
void fill(v1::Report& report, const Message& record);
void fill(v1::Report& report, const Warning& record);
void fill(v1::Report& report, const CheckpointFailure& record);
void fill(v1::Report& report, const PhaseRecord& record);
void fill(v1::Report& report, const EndRecord& record);

[[nodiscard]] v1::Join to_join(const SessionClient::Config& config);

// Each report after its size as a varint, for Config::unacked_file.
[[nodiscard]] std::string to_delimited(const std::deque<v1::Report>& reports);

}  // namespace emoe::worker
