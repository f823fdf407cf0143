#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "emoe/v1/job_spec.pb.h"
#include "plan/rank_memory.h"
#include "plan/training_flops.h"
#include "server/job/job_warnings.h"

namespace emoe::server {

// Rows of a data set as they are cached.
struct CachedRows {
  int64_t rows = 0;
  int64_t tokens = 0;
};

// The steps of a training run and their micro-batches, as the worker will cut them; or an evaluation, all
// of whose rows and questions are one step that counts none.
struct WorkEstimate {
  int64_t rows = 0;  // of an epoch; of an evaluation those of its questions too
  int64_t steps = 0;
  StepFigures all;     // of all steps together
  bool exact = false;  // every row was tokenised and every step looked at
  bool upper_bound =
      false;  // no row was tokenised: each is as long as it may be, all of it to be learned
  std::vector<MicroBatch> micro_batches;  // of all ranks, in the steps that were looked at
  std::vector<MicroBatch> evaluated;      // of a training's evaluations of rows, held-out ones too
  std::optional<SuiteFacts> suite;        // is scored as well, in passes of its own (suite_pass())
  int64_t longest_row = 0;                // tokens
  int64_t longest_evaluated = 0;          // tokens, of a row of `evaluated`
  std::vector<CachedRows> cached;         // each data set
};

// The largest pass over a suite's questions where micro-batches have so many tokens; few are targets.
[[nodiscard]] MicroBatch suite_pass(const SuiteFacts& suite, int64_t micro_batch_tokens);

// From the first rows, which stand for all where there are more; from rows of data.max_length where
// none were tokenised. Looks at as many steps as a caller waits for. Nothing for another task than
// train and evaluate, and where no step is left.
[[nodiscard]] std::optional<WorkEstimate> estimate_work(const v1::JobSpec& resolved,
                                                        const SpecFacts& facts);

}  // namespace emoe::server
