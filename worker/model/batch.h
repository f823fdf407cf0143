#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

namespace emoe::worker {

// Rows side by side for one forward pass (a micro-batch): T tokens to be computed, for S rows (the
// segments). Attention is causal inside a segment and never crosses one. Without packing the
// segments are padded to one length with id 0 at their end; padding is never a target, and causal
// attention keeps it from the real tokens. Segments that begin alike may share these tokens.
struct PackedBatch {
  std::vector<int64_t> ids;        // [T]
  std::vector<int64_t> positions;  // [T] in the token's segment, from 0
  std::vector<int64_t> targets;    // [T] id of the next token, or -1 where there is no loss
  // [T] what a target's cross-entropy counts in the loss of the *global* batch; 0 where there is
  // no target. Summed over all micro-batches and ranks it is the loss.
  std::vector<float> weights;
  // [R] for each token of the segments, one after the other, which of the T tokens it is, each of
  // which comes up; a token comes up first in the order of the T. Empty: nothing is shared, R = T.
  std::vector<int64_t> row_tokens;
  std::vector<int64_t> segment_starts;  // [S + 1], first 0, last R
  // [S] names the row within the step, whichever rank and micro-batch it is in: random numbers
  // (dropout) are drawn from it.
  std::vector<int64_t> row_keys;
  std::vector<int64_t> segment_lengths;  // [S] tokens of each without padding; empty: no padding
  int64_t real_tokens = 0;               // R without padding

  [[nodiscard]] int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  [[nodiscard]] int64_t num_row_tokens() const {
    return row_tokens.empty() ? num_tokens() : static_cast<int64_t>(row_tokens.size());
  }
  [[nodiscard]] int64_t num_segments() const { return static_cast<int64_t>(row_keys.size()); }
};

// A batch of one row without targets, for looking at a model's logits.
[[nodiscard]] inline PackedBatch one_segment(const std::vector<int64_t>& ids) {
  PackedBatch batch;
  batch.ids = ids;
  batch.positions.resize(ids.size());
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  batch.targets.assign(ids.size(), -1);
  batch.weights.assign(ids.size(), 0.0F);
  batch.segment_starts = {0, static_cast<int64_t>(ids.size())};
  batch.row_keys = {0};
  batch.real_tokens = static_cast<int64_t>(ids.size());
  return batch;
}

// A token whose target counts nothing: what a rank computes with when only others have rows left and
// every rank must make the pass.
[[nodiscard]] inline PackedBatch idle_batch() {
  PackedBatch batch = one_segment({0});
  batch.targets = {0};
  return batch;
}

}  // namespace emoe::worker
