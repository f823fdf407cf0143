#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "emoe/v1/job_spec.pb.h"
#include "plan/rank_memory.h"
#include "plan/training_flops.h"
#include "server/job/job_warnings.h"

namespace emoe::server {

// The steps of a training run and their micro-batches, as the worker will cut them.
struct WorkEstimate {
  int64_t rows = 0;  // of an epoch
  int64_t steps = 0;
  StepFigures all;                        // of all steps together
  bool exact = false;                     // every row was tokenised and every step looked at
  std::vector<MicroBatch> micro_batches;  // of all ranks, in the steps that were looked at
  int64_t longest_row = 0;                // tokens
  int64_t epoch_tokens = 0;
};

// From the first rows, which stand for all where there are more; from rows of data.max_length where
// none were tokenised. Looks at as many steps as a caller waits for. Nothing for another task, and
// where no step is left.
[[nodiscard]] std::optional<WorkEstimate> estimate_work(const v1::JobSpec& resolved,
                                                        const SpecFacts& facts);

}  // namespace emoe::server
