#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/status.h"
#include "worker/model/lora.h"
#include "worker/model/model.h"
#include "worker/tensor/sharded_writer.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

// The trained model as a dense one: its tensors by their Hugging Face names, fp32 on the CPU, in the
// base's neuron order. `model` must outlive it.
class Merge {
 public:
  explicit Merge(const Model& model);

  // True when training can have changed the tensor.
  [[nodiscard]] bool is_trained(const std::string& name) const;
  // Base + alpha/r * B A in fp32 for a linear with an adapter, the master itself in full tuning, the
  // base where nothing is trained. `base` is the original tensor as stored.
  [[nodiscard]] at::Tensor merged(const std::string& name, const at::Tensor& base) const;
  // The adapter of a linear; undefined where it has none.
  [[nodiscard]] Lora adapter(const std::string& name) const;

 private:
  [[nodiscard]] const Parameter* find(const std::string& name) const;
  // Of the adapter beside a weight; null for a tensor that none can stand beside.
  [[nodiscard]] const Parameter* find_adapter(const std::string& name, char part) const;

  std::map<std::string, const Parameter*> parameters_;
  const LoraOptions& lora_;
};

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
// `dtype` is the export's: a word of the job, auto only with a base folder.
struct MergePlan {
  std::vector<Shard> shards;
  std::vector<MergeItem> items;  // in the order of the shards
};
[[nodiscard]] Result<MergePlan> plan_merge(const Merge& merge, const BaseWeights& base,
                                           const std::string& dtype, uint64_t max_shard_bytes);

}  // namespace emoe::worker
