#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/batching/micro_batches.h"
#include "worker/model/batch.h"
#include "worker/text/row.h"

namespace emoe::worker {

// One optimiser step as this rank sees it: its micro-batches (none where there are more ranks than
// rows), and the global batch's figures, the same on every rank.
struct StepBatches {
  std::vector<PackedBatch> mine;
  int64_t samples = 0;
  int64_t tokens = 0;  // real ones
  int64_t target_tokens = 0;
  int64_t padding_tokens = 0;
  int64_t squared_lengths = 0;  // sum over the rows of length²
};

[[nodiscard]] StepBatches make_step_batches(const std::vector<Row>& rows,
                                            std::span<const int64_t> rows_of_step,
                                            LossReduction reduction,
                                            const MicroBatchOptions& options, int rank,
                                            int world_size);

}  // namespace emoe::worker
