#pragma once

#include <filesystem>

#include <ATen/core/Tensor.h>

#include "worker/model/model.h"
#include "worker/weights/base_weights.h"
#include "worker/weights/export.h"
#include "worker/weights/merge.h"

namespace emoe::worker {

// An export under way.
struct ExportJob {
  Model& model;
  const BaseWeights& base;
  const ExportOptions& options;
  std::filesystem::path folder;  // where it is made: model/, adapter/
  Merge merge;
  MergePlan plan;                       // empty without a merged model
  std::map<int64_t, Partition> orders;  // what its neuron_order/ says; empty: it has none
  ExportReport report;

  // The base's tensor as stored (or as drawn).
  [[nodiscard]] at::Tensor original(const MergeItem& item) const {
    return base.tensor(base.folder() == nullptr ? item.weight : item.name, item.shape);
  }
  // What a changed tensor becomes before rounding: fp32, in the base's neuron order.
  [[nodiscard]] at::Tensor merged(const MergeItem& item) const {
    return merge.merged(item.weight, original(item));
  }
};

// While another thread hashes: the products of this one leave a processor to it, whose thread would
// otherwise wait for work at its expense.
class BesideHashing {
 public:
  BesideHashing();
  ~BesideHashing();
  BesideHashing(const BesideHashing&) = delete;
  BesideHashing& operator=(const BesideHashing&) = delete;

 private:
  int threads_;
};

// The gate of a layer, whose hash tells what a partition was made from; SHA-256 of a tensor's bytes.
inline constexpr char kGateName[] = ".gate_proj.weight";
[[nodiscard]] std::string hash_of(const at::Tensor& tensor);

[[nodiscard]] double largest_difference(const at::Tensor& a, const at::Tensor& b);

// Opens the written folder again and compares every tensor with the merge, and the logits of
// options.probe with the model's. Faults go to report.problems, figures to its other fields.
void check_merged_model(ExportJob& job);

// The same for the adapter's folder: the model's own A and B, bit for bit.
void check_adapter(ExportJob& job);

}  // namespace emoe::worker
