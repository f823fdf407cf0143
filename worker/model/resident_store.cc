#include <algorithm>
#include <map>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>

#include "base/counter_random.h"
#include "format/tensor_table.h"
#include "worker/model/weight_store.h"

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

struct ResidentWeights {
  OuterWeights outer;
  std::vector<std::shared_ptr<DecoderLayer>> layers;
  std::vector<Parameter> parameters;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;  // bf16 full tuning: of a master, master
};

void renew_means(DecoderLayer& layer) {
  const Linear& gate = layer.ffn.gate;
  ExpertGate& experts = *layer.experts;
  experts.means = mean_gate_rows(gate.weight->values(), experts.routing.num_experts);
  if (!gate.bias.defined()) return;
  experts.bias_means = mean_gate_rows(gate.bias.compute, experts.routing.num_experts);
}

class ResidentStore final : public WeightStore {
 public:
  explicit ResidentStore(ResidentWeights weights) : weights_(std::move(weights)) {}

  [[nodiscard]] const OuterWeights& outer() const override { return weights_.outer; }
  [[nodiscard]] std::shared_ptr<const DecoderLayer> acquire(int64_t index) override {
    return weights_.layers.at(index);
  }
  void prefetch(int64_t /*index*/) override {}
  [[nodiscard]] std::vector<Parameter>& parameters() override { return weights_.parameters; }
  void parameters_changed() override {
    const at::NoGradGuard no_grad;
    for (const auto& [copy, master] : weights_.copies) copy.copy_(master);
    for (const auto& layer : weights_.layers) {
      if (layer->experts && layer->ffn.gate.master.defined()) renew_means(*layer);
    }
  }

 private:
  ResidentWeights weights_;
};

// Loads tensors one by one and registers what is trainable.
class Loader {
 public:
  Loader(const ModelOptions& options, const WeightSource& source)
      : options_(options), source_(source) {
    if (options.emoe.routing.num_experts == 0) return;
    for (const auto& [layer, partition] : options.emoe.partitions) {
      orders_[layer] = std::make_shared<const NeuronOrder>(partition);
    }
  }

  [[nodiscard]] ResidentWeights load_all() {
    for (int64_t l = 0; l < options_.config.num_hidden_layers; ++l) {
      into_.layers.push_back(std::make_shared<DecoderLayer>());
      if (orders_.contains(l)) into_.layers.back()->experts = {options_.emoe.routing, {}};
    }
    for (const TensorSpec& spec : TensorTable(options_.config)) {
      if (Weight* outer = into_.outer.of(spec.role)) {
        *outer = load(spec);
      } else if (DecoderLayer& layer = *into_.layers[spec.layer];
                 Linear* linear = layer.linear(spec.role)) {
        load(spec, *linear);
      } else {
        *layer.vector(spec.role) = load(spec);
      }
    }
    if (options_.config.tie_word_embeddings) into_.outer.head = into_.outer.embedding;
    for (const auto& layer : into_.layers) {
      if (layer->experts) renew_means(*layer);
    }
    return std::move(into_);
  }

 private:
  void load(const TensorSpec& spec, Linear& linear) {
    const Weight weight = load(spec);  // a bias is loaded by its own
    linear.weight = std::make_shared<DenseMatrix>(weight.compute);
    linear.master = weight.master;
    add_adapter(spec, linear.lora);
  }

  [[nodiscard]] Weight load(const TensorSpec& spec) {
    const at::Tensor base = source_(spec.name, spec.shape);
    if (base.sizes() != at::IntArrayRef(spec.shape)) {
      throw std::invalid_argument("weight source gave " + spec.name +
                                  " another shape than asked for");
    }
    if (!options_.full) {
      return {.compute = in_memory(spec, base, spec.ffn_dim(), options_.dtype), .master = {}};
    }
    Weight weight;
    weight.master = add_parameter(spec, spec.name, base, spec.ffn_dim());
    weight.compute = weight.master;
    if (options_.dtype != at::kFloat) {
      weight.compute = weight.master.detach().to(options_.dtype);
      into_.copies.emplace_back(weight.compute, weight.master);
    }
    return weight;
  }

  void add_adapter(const TensorSpec& spec, Lora& lora) {
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
    lora.stream = derive_key(static_cast<uint64_t>(spec.layer),
                             static_cast<uint64_t>(linear_index(spec.role)));
  }

  // `dim` of `original` counts the layer's neurons; -1: none does.
  at::Tensor add_parameter(const TensorSpec& spec, const std::string& name,
                           const at::Tensor& original, int dim) {
    at::Tensor tensor = in_memory(spec, original, dim, at::kFloat).set_requires_grad(true);
    const auto order = orders_.find(spec.layer);
    const bool permuted = dim >= 0 && order != orders_.end();
    into_.parameters.push_back({.name = name,
                                .tensor = tensor,
                                .weight_decay = tensor.dim() > 1,
                                .permuted_dim = permuted ? dim : -1,
                                .order = permuted ? order->second : nullptr});
    return tensor;
  }

  // In memory order on the model's device. Always a copy: a source may give a mapped file.
  [[nodiscard]] at::Tensor in_memory(const TensorSpec& spec, const at::Tensor& original, int dim,
                                     at::ScalarType type) const {
    const auto order = orders_.find(spec.layer);
    const at::Tensor memory =
        order == orders_.end() ? original : order->second->to_memory(original, dim);
    return memory.to(options_.device, type, /*non_blocking=*/false, /*copy=*/true).contiguous();
  }

  const ModelOptions& options_;
  const WeightSource& source_;
  ResidentWeights into_;
  std::map<int64_t, std::shared_ptr<const NeuronOrder>> orders_;  // of the converted layers
};

}  // namespace

std::unique_ptr<WeightStore> make_resident_store(const ModelOptions& options,
                                                 const WeightSource& source) {
  check_options(options);
  const at::NoGradGuard no_grad;
  return std::make_unique<ResidentStore>(Loader(options, source).load_all());
}

}  // namespace emoe::worker
