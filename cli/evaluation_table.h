#pragma once

#include <string>

#include "emoe/v1/job.pb.h"

namespace emoe::cli {

// The evaluations of a job with a suite: losses, accuracies and those of its subjects, before and after
// the training where there was one. Empty for a job without a suite.
[[nodiscard]] std::string evaluation_table(const v1::Job& job, int width);

}  // namespace emoe::cli
