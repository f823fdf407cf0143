#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/row.h"
#include "worker/model/batch.h"

namespace emoe::worker {

// The rows of one optimiser step or one evaluation: all ranks' rows, in a fixed order. A row's
// place in it is its row key.
using RowRefs = std::vector<const Row*>;

// How rows become micro-batches (one forward pass each). No choice changes a result beyond
// rounding.
struct MicroBatchOptions {
  int64_t max_tokens = 4096;  // budget, padding included; a row longer than it goes alone
  bool packing = true;        // rows side by side; false: padded to the longest of the micro-batch
  // With packing: what rows have in common at their beginnings (a template's text) is computed once
  // in each micro-batch. Not with dropout, which draws for each row.
  bool share_prefixes = false;
};

// Which loss a target token's cross-entropy counts into.
enum class LossReduction {
  token,    // sum over the global batch's targets / their number
  example,  // mean over rows of each row's token mean
};

// Rows (by index into `lengths`) for each rank: about equal tokens, the longest dealt out first.
// The same on every rank. Where there are rows enough, every rank gets one; else some get none.
[[nodiscard]] std::vector<std::vector<int64_t>> balance_rows(std::span<const int64_t> lengths,
                                                             int world_size);

// Groups `mine` (indices into `lengths`) into micro-batches within the budget, longest rows first;
// first fit, so that little of the budget is lost.
[[nodiscard]] std::vector<std::vector<int64_t>> cut_micro_batches(std::span<const int64_t> lengths,
                                                                  std::span<const int64_t> mine,
                                                                  const MicroBatchOptions& options);

// Tokens of the micro-batch of the rows `which` that are not computed, since another row has them.
[[nodiscard]] int64_t shared_tokens(const RowRefs& rows, std::span<const int64_t> which,
                                    const MicroBatchOptions& options);

// Tokens of padding those micro-batches have; 0 with packing.
[[nodiscard]] int64_t padding_tokens(std::span<const int64_t> lengths,
                                     const std::vector<std::vector<int64_t>>& micro_batches,
                                     const MicroBatchOptions& options);

[[nodiscard]] std::vector<int64_t> lengths_of(const RowRefs& rows);
[[nodiscard]] int64_t target_tokens_of(const RowRefs& rows);

// What one target of each row counts (see PackedBatch::weights): 1 / targets of all rows, or
// 1 / (rows with a target * own targets); 0 for a row without targets.
[[nodiscard]] std::vector<float> target_weights(const RowRefs& rows, LossReduction reduction);

// The rows `which` as one micro-batch; `weights` has an entry per row of `rows`.
[[nodiscard]] PackedBatch make_micro_batch(const RowRefs& rows, std::span<const int64_t> which,
                                           std::span<const float> weights,
                                           const MicroBatchOptions& options);

// A global batch (an optimiser step, or all rows of an evaluation) as one rank sees it: its
// micro-batches (none where there are more ranks than rows), and figures of the whole, the same on
// every rank.
struct StepBatches {
  std::vector<PackedBatch> mine;
  int64_t micro_batches = 0;  // of all ranks
  int64_t rounds = 0;         // micro-batches of the rank that has most
  int64_t samples = 0;
  int64_t tokens = 0;  // real ones
  int64_t target_tokens = 0;
  int64_t padding_tokens = 0;
  int64_t shared_tokens = 0;    // of `tokens`, those not computed again
  int64_t squared_lengths = 0;  // sum over the rows of length²
};

// All of the above in turn. With rank -1 the figures alone: no micro-batch is made.
[[nodiscard]] StepBatches make_step_batches(const RowRefs& rows, LossReduction reduction,
                                            const MicroBatchOptions& options, int rank,
                                            int world_size);

}  // namespace emoe::worker
