#include "worker/weights/merge.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "base/check.h"
#include "format/dtype.h"
#include "format/tensor_table.h"

namespace emoe::worker {
namespace {

constexpr int64_t kBlock = 65536;  // values: 256 KiB of fp32

}  // namespace

Merge::Merge(const Model& model) : lora_(model.options().lora) {
  for (const Parameter& parameter : model.parameters()) parameters_[parameter.name] = &parameter;
}

const Parameter* Merge::find(const std::string& name) const {
  const auto found = parameters_.find(name);
  return found == parameters_.end() ? nullptr : found->second;
}

bool Merge::is_trained(const std::string& name) const {
  return find(name) != nullptr || find_adapter(name, 'A') != nullptr;
}

const Parameter* Merge::find_adapter(const std::string& name, char part) const {
  return name.ends_with(".weight") ? find(lora_name(name, part)) : nullptr;
}

at::Tensor Merge::merged(const std::string& name, const at::Tensor& base) const {
  const at::NoGradGuard no_grad;
  if (const Parameter* master = find(name)) return master->stored();
  const Lora lora = adapter(name);
  if (!lora.defined()) return base.to(at::kCPU, at::kFloat);
  // Block by block, so that what is between the product and the sum stays in the cache. The blocks do
  // not depend on the threads: the check merges again and compares bits.
  at::Tensor wide = at::empty({lora.b.size(0), lora.a.size(1)}, at::kFloat);
  const int64_t step = std::max<int64_t>(kBlock / std::max<int64_t>(wide.size(1), 1), 1);
  at::parallel_for(0, (wide.size(0) + step - 1) / step, 1, [&](int64_t begin, int64_t end) {
    const at::NoGradGuard none_here;
    for (int64_t row = begin * step; row < std::min(end * step, wide.size(0)); row += step) {
      const int64_t rows = std::min(step, wide.size(0) - row);
      at::Tensor block = wide.narrow(0, row, rows);
      at::mm_out(block, lora.b.narrow(0, row, rows), lora.a);
      block.mul_(lora.scale).add_(base.narrow(0, row, rows).to(at::kCPU, at::kFloat));
    }
  });
  return wide;
}

Lora Merge::adapter(const std::string& name) const {
  const Parameter* a = find_adapter(name, 'A');
  const Parameter* b = find_adapter(name, 'B');
  EMOE_CHECK((a == nullptr) == (b == nullptr), "an adapter has two parts");
  if (a == nullptr) return {};
  const std::optional<AdapterModule> module = lora_.beside(name.substr(0, name.rfind('.')));
  EMOE_CHECK(module.has_value(), name);
  return {.a = a->stored(), .b = b->stored(), .scale = lora_.scale(*module)};
}

Result<MergePlan> plan_merge(const Merge& merge, const BaseWeights& base, const std::string& dtype,
                             uint64_t max_shard_bytes) {
  MergePlan plan;
  const TensorTable table(base.config());
  const auto add = [&](const std::string& name, const std::string& base_dtype,
                       const std::vector<int64_t>& shape) {
    MergeItem item{.name = name, .weight = name, .dtype = base_dtype, .shape = shape};
    if (name == kHeadName) item.weight = table.output().name;
    // What nobody reads is no weight: it stays as it is.
    if (dtype != "auto" && !is_skipped_tensor(name)) item.dtype = dtype_of_word(dtype);
    item.changed = merge.is_trained(item.weight);
    item.converted = item.dtype != base_dtype;
    plan.items.push_back(item);
    return SafetensorsWriter::Planned{name, item.dtype, shape};
  };
  if (base.folder() == nullptr) {
    std::vector<SafetensorsWriter::Planned> tensors;
    for (const TensorSpec& spec : table) tensors.push_back(add(spec.name, "F32", spec.shape));
    EMOE_ASSIGN_OR_RETURN(plan.shards, plan_shards(tensors, max_shard_bytes));
    return plan;
  }
  for (const auto& [file, names] : base.folder()->headers().layout()) {
    Shard shard{file, {}};
    for (const std::string& name : names) {
      const TensorInfo& info = base.folder()->tensors().at(name);
      shard.tensors.push_back(add(name, info.dtype, info.shape));
    }
    plan.shards.push_back(std::move(shard));
  }
  return plan;
}

void reorder(MergePlan& plan, const DecoderConfig& config, const Reordering& reordering) {
  std::map<int64_t, std::shared_ptr<const NeuronOrder>> orders;
  for (const auto& [layer, partition] : reordering.partitions) {
    orders[layer] = std::make_shared<const NeuronOrder>(partition);
  }
  const TensorTable table(config);
  for (MergeItem& item : plan.items) {
    const TensorSpec* spec = table.find(item.weight);
    if (spec == nullptr || spec->ffn_dim() < 0 || !orders.contains(spec->layer)) continue;
    item.layer = spec->layer;
    item.ffn_dim = spec->ffn_dim();
    item.to_base = reordering.to_base;
    item.order = orders.at(spec->layer);
  }
}

void keep_headers(MergePlan& plan, const BaseWeights& base) {
  for (Shard& shard : plan.shards) {
    const auto bytes = base.folder()->header_bytes(shard.file);
    shard.header.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
}

}  // namespace emoe::worker
