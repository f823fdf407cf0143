#include "worker/weights/merge_plan.h"

#include <absl/strings/str_cat.h>

#include "format/tensor_table.h"
#include "worker/weights/merged_weight.h"

namespace emoe::worker {
namespace {

MergeItem item_of(const Model& model, const std::string& name, const std::string& base_dtype,
                  const std::vector<int64_t>& shape, const std::string& dtype) {
  MergeItem item{.name = name, .weight = name, .dtype = dtype, .shape = shape};
  const TensorTable table(model.options().config);
  if (name == kHeadName) item.weight = table.output().name;
  if (is_rotary_buffer(name)) item.dtype = base_dtype;  // no weight: stays as it is
  item.changed = is_trained(model, item.weight);
  item.converted = item.dtype != base_dtype;
  return item;
}

}  // namespace

Result<MergePlan> plan_merge(const Model& model, const BaseWeights& base, const std::string& dtype,
                             uint64_t max_shard_bytes) {
  MergePlan plan;
  if (base.folder() == nullptr) {
    std::vector<SafetensorsWriter::Planned> tensors;
    for (const TensorSpec& spec : TensorTable(base.config())) {
      plan.items.push_back(item_of(model, spec.name, "F32", spec.shape, dtype));
      tensors.push_back({spec.name, dtype, spec.shape});
    }
    EMOE_ASSIGN_OR_RETURN(plan.shards, plan_shards(tensors, max_shard_bytes));
    return plan;
  }
  for (const auto& [file, names] : base.folder()->headers().layout()) {
    Shard shard{file, {}};
    for (const std::string& name : names) {
      const TensorInfo& info = base.folder()->tensors().at(name);
      plan.items.push_back(item_of(model, name, info.dtype, info.shape, dtype));
      shard.tensors.push_back({name, plan.items.back().dtype, info.shape});
    }
    plan.shards.push_back(std::move(shard));
  }
  return plan;
}

at::Tensor base_tensor(const BaseWeights& base, const MergeItem& item) {
  return base.tensor(base.folder() == nullptr ? item.weight : item.name, item.shape);
}

at::Tensor merged_tensor(const Model& model, const BaseWeights& base, const MergeItem& item) {
  return merged_weight(model, item.weight, base_tensor(base, item));
}

}  // namespace emoe::worker
