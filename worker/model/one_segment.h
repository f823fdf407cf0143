#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "worker/model/batch.h"

namespace emoe::worker {

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

}  // namespace emoe::worker
