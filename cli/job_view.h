#pragma once

#include <string>

#include "base/clock.h"
#include "emoe/v1/fine_tuning_service.pb.h"

namespace emoe::cli {

// Answers of the service as text for people; `width` 0: unlimited.
[[nodiscard]] std::string job_text(const v1::Job& job, WallTime now, int width);
[[nodiscard]] std::string warnings_table(const v1::Job& job, int width);  // empty: there are none
[[nodiscard]] std::string job_table(const v1::ListJobsResponse& jobs, WallTime now, int width);
[[nodiscard]] std::string metrics_table(const v1::ListMetricsResponse& metrics, int width);
[[nodiscard]] std::string checkpoint_table(const v1::ListCheckpointsResponse& checkpoints,
                                           WallTime now, int width);
[[nodiscard]] std::string preflight_table(const v1::PreflightReport& report, int width);
[[nodiscard]] std::string server_text(const v1::ServerInfo& info, WallTime now, int width);

}  // namespace emoe::cli
