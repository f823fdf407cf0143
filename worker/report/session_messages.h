#pragma once

#include <deque>
#include <string>

#include "emoe/v1/worker_control_service.pb.h"
#include "worker/report/progress_sink.h"
#include "worker/report/session_client.h"

namespace emoe::worker {

// The messages of proto/emoe/v1/report.proto from the worker's own types.
[[nodiscard]] v1::Report to_report(const StepRecord& record);
[[nodiscard]] v1::Report to_report(const EvalRecord& record);
[[nodiscard]] v1::Report to_report(const CheckpointRecord& record);
[[nodiscard]] v1::Report to_report(const ResumeRecord& resume);
[[nodiscard]] v1::Report to_report(const MergeRecord& record);
[[nodiscard]] v1::Report to_log_report(const std::string& text, v1::LogMessage::Level level);
[[nodiscard]] v1::Report to_end_report(int exit_code, const std::string& message);
[[nodiscard]] v1::Join to_join(const SessionClient::Config& config);

// Each report after its size as a varint, for Config::unacked_file.
[[nodiscard]] std::string to_delimited(const std::deque<v1::Report>& reports);

// The phase as people see it: all parts of a step are "train".
[[nodiscard]] const char* to_progress_phase(Phase phase);

}  // namespace emoe::worker
