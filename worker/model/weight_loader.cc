#include "worker/model/weight_loader.h"

#include <algorithm>
#include <stdexcept>

#include <ATen/ATen.h>

#include "base/counter_random.h"

namespace emoe::worker {
namespace {

void check_options(const ModelOptions& options) {
  const DecoderConfig& config = options.config;
  if (options.full && options.lora.rank > 0) {
    throw std::invalid_argument("full tuning and LoRA exclude each other");
  }
  const std::vector<std::string>& linears = linear_names();
  for (const auto& target : options.lora.targets) {
    if (std::find(linears.begin(), linears.end(), target) == linears.end()) {
      throw std::invalid_argument("LoRA target '" + target + "' is no linear of a decoder layer");
    }
  }
  const ExpertRouting& routing = options.emoe.routing;
  if (routing.num_experts == 0) return;
  check_routing(routing, config.intermediate_size);
  for (const auto& [layer, partition] : options.emoe.partitions) {
    if (layer < 0 || layer >= config.num_hidden_layers ||
        static_cast<int64_t>(partition.labels.size()) != config.intermediate_size ||
        partition.num_experts != routing.num_experts) {
      throw std::invalid_argument("partition of layer " + std::to_string(layer) +
                                  " does not fit the model");
    }
  }
}

}  // namespace

WeightLoader::WeightLoader(const ModelOptions& options, const WeightSource& source,
                           const TensorSplit& split)
    : options_(options), source_(source), split_(split), upload_(options.device) {
  check_options(options);
  if (options.emoe.routing.num_experts == 0) return;
  for (const auto& [layer, partition] : options.emoe.partitions) {
    orders_[layer] = std::make_shared<const NeuronOrder>(partition);
  }
}

std::vector<std::shared_ptr<DecoderLayer>> WeightLoader::empty_layers() const {
  std::vector<std::shared_ptr<DecoderLayer>> layers;
  for (int64_t l = 0; l < options_.config.num_hidden_layers; ++l) {
    layers.push_back(std::make_shared<DecoderLayer>());
    if (!orders_.contains(l)) continue;
    layers.back()->experts = {
        .routing = options_.emoe.routing, .means = {}, .shared_by = split_.group()};
  }
  return layers;
}

at::Tensor WeightLoader::original(const TensorSpec& spec) const {
  at::Tensor base = source_(spec.name, spec.shape);
  if (base.sizes() != at::IntArrayRef(spec.shape)) {
    throw std::invalid_argument("weight source gave " + spec.name +
                                " another shape than asked for");
  }
  return base;
}

std::shared_ptr<const NeuronOrder> WeightLoader::order(int64_t layer) const {
  const auto found = orders_.find(layer);
  return found == orders_.end() ? nullptr : found->second;
}

at::Tensor WeightLoader::in_order(const TensorSpec& spec, const at::Tensor& original,
                                  int dim) const {
  const auto order = orders_.find(spec.layer);
  // To a GPU as it is stored: what follows is done there.
  const at::Tensor there = upload(original);
  return order == orders_.end() ? there : order->second->to_memory(there, dim);
}

// A copy also where the source's own tensor would do: it may be a mapped file.
at::Tensor WeightLoader::copy_of(const at::Tensor& tensor, at::ScalarType type) const {
  return tensor.to(options_.device, type, /*non_blocking=*/false, /*copy=*/true).contiguous();
}

at::Tensor WeightLoader::own_part(const TensorSpec& spec, const at::Tensor& original,
                                  at::ScalarType type) const {
  return copy_of(split_.part(spec.role, in_order(spec, original, spec.ffn_dim())), type);
}

at::Tensor WeightLoader::in_memory(const TensorSpec& spec, const at::Tensor& original, int dim,
                                   at::ScalarType type) const {
  return copy_of(in_order(spec, original, dim), type);
}

at::Tensor WeightLoader::take(at::IntArrayRef sizes) {
  if (buffer_) return buffer_->take(sizes);
  return at::empty(sizes, at::TensorOptions(at::kFloat).device(options_.device));
}

at::Tensor WeightLoader::add_parameter(const TensorSpec& spec, const std::string& name,
                                       const at::Tensor& original, int dim) {
  at::Tensor tensor = take(original.sizes());
  tensor.copy_(in_order(spec, original, dim));
  tensor.set_requires_grad(true);
  const auto order = orders_.find(spec.layer);
  const bool permuted = dim >= 0 && order != orders_.end();
  parameters_.push_back({.name = name,
                         .tensor = tensor,
                         .weight_decay = tensor.dim() > 1,
                         .permuted_dim = permuted ? dim : -1,
                         .order = permuted ? order->second : nullptr});
  return tensor;
}

at::Tensor WeightLoader::add_part(const TensorSpec& spec, const at::Tensor& original) {
  const at::Tensor tensor = take(split_.shape_of_part(spec));
  if (split_.has(spec.role)) {
    tensor.copy_(split_.part(spec.role, in_order(spec, original, spec.ffn_dim())));
  }
  tensor.set_requires_grad(true);
  parameters_.push_back({.name = spec.name,
                         .tensor = tensor,
                         .weight_decay = spec.shape.size() > 1,
                         .order = nullptr,
                         .part = std::make_shared<const PartOfTensor>(part_of(spec))});
  return tensor;
}

PartOfTensor WeightLoader::part_of(const TensorSpec& spec) const {
  const int dim = spec.ffn_dim();
  const std::shared_ptr<const NeuronOrder> order = dim < 0 ? nullptr : this->order(spec.layer);
  const TensorSplit& split = split_;
  return {.shape = spec.shape,
          .whole =
              [&split, spec, order, dim](const at::Tensor& own) {
                const at::Tensor memory = split.whole(spec, own);
                return order == nullptr ? memory : order->to_original(memory, dim);
              },
          .own =
              [&split, spec, order, dim](const at::Tensor& original) {
                if (!split.has(spec.role)) return original.new_empty({0});
                return split.part(spec.role,
                                  order == nullptr ? original : order->to_memory(original, dim));
              },
          .counted = split.is_first_with(spec.role)};
}

void WeightLoader::add_adapter(const TensorSpec& spec, Lora& lora) {
  const LoraOptions& options = options_.lora;
  const std::optional<AdapterModule> adapter = options.beside(spec.module());
  if (!adapter) return;
  // Drawn in the original order, so that a seed means one adapter whatever the partition.
  const std::string a_name = lora_name(spec.name, 'A');
  const at::Tensor a = initial_lora_a(adapter->rank, spec.shape[1], options.seed, a_name);
  const at::Tensor b = at::zeros({spec.shape[0], adapter->rank}, at::kFloat);
  lora.a = add_parameter(spec, a_name, a, spec.ffn_dim() == 1 ? 1 : -1);
  lora.b = add_parameter(spec, lora_name(spec.name, 'B'), b, spec.ffn_dim() == 0 ? 0 : -1);
  lora.scale = options.scale(*adapter);
  lora.stream =
      derive_key(static_cast<uint64_t>(spec.layer), static_cast<uint64_t>(linear_index(spec.role)));
}

void renew_means(DecoderLayer& layer, const at::Tensor& gate) {
  ExpertGate& experts = *layer.experts;
  experts.means = mean_gate_rows(gate, experts.own_experts());
  const Weight& bias = layer.ffn.gate.bias;
  if (!bias.defined()) return;
  experts.bias_means = mean_gate_rows(bias.compute, experts.own_experts());
}

}  // namespace emoe::worker
