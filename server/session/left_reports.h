#pragma once

#include <filesystem>
#include <vector>

#include "base/status.h"
#include "emoe/v1/report.pb.h"

namespace emoe::server {

// The reports a rank left behind because it could not tell them, in order (the format stands in
// proto/emoe/v1/report.proto). Empty without a file; what a torn write left at its end is no
// report. DATA_LOSS for something else than reports.
[[nodiscard]] Result<std::vector<v1::Report>> read_left_reports(
    const std::filesystem::path& attempt_dir, int rank);

}  // namespace emoe::server
