#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/status.h"
#include "worker/emoe/neuron_order.h"
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

// Another order of the neurons of some feed-forward layers in the written model than in the base.
struct Reordering {
  std::map<int64_t, Partition> partitions;  // layer → its experts; empty: the base's order
  bool to_base = false;  // the base lies expert after expert, and the order before that is written

  [[nodiscard]] bool none() const { return partitions.empty(); }
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
  int64_t layer = -1;      // of a tensor whose neurons are, or were, written in another order
  int ffn_dim = -1;        // its dimension that counts them
  bool to_base = false;
  std::shared_ptr<const NeuronOrder> order;  // null: in the base's order

  // The tensor, or one like it, as it is written.
  [[nodiscard]] at::Tensor ordered(const at::Tensor& tensor) const {
    if (order == nullptr) return tensor;
    return to_base ? order->to_original(tensor, ffn_dim) : order->to_memory(tensor, ffn_dim);
  }
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
// Has the items of these layers written in the other order.
void reorder(MergePlan& plan, const DecoderConfig& config, const Reordering& reordering);
// Has the files written with the headers that they have in the base, whose tensors keep their dtypes.
void keep_headers(MergePlan& plan, const BaseWeights& base);

}  // namespace emoe::worker
