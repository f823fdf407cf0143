#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "worker/model/model.h"
#include "worker/tensor/sharded_writer.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

// What is to be written for one tensor of the merged model.
struct MergeItem {
  std::string name;    // as stored
  std::string weight;  // the model's tensor it holds: another name only for the head that a
                       // tied base stores a second time
  std::string dtype;   // to be stored in
  std::vector<int64_t> shape;
  bool changed = false;    // training can have changed it
  bool converted = false;  // not in the base's dtype
};

// The files of the merged model with their tensors: the base's layout, or, for a model that was
// started at random, shards of at most `max_shard_bytes` in the order of the tensor table.
struct MergePlan {
  std::vector<Shard> shards;
  std::vector<MergeItem> items;  // in the order of the shards
};
[[nodiscard]] Result<MergePlan> plan_merge(const Model& model, const BaseWeights& base,
                                           const std::string& dtype, uint64_t max_shard_bytes);

// The base tensor as stored (or as drawn).
[[nodiscard]] at::Tensor base_tensor(const BaseWeights& base, const MergeItem& item);
// What a changed tensor becomes before rounding: fp32, in the base's neuron order.
[[nodiscard]] at::Tensor merged_tensor(const Model& model, const BaseWeights& base,
                                       const MergeItem& item);

}  // namespace emoe::worker
