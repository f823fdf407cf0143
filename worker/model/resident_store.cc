#include "worker/model/resident_store.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include <ATen/ATen.h>

#include "format/tensor_table.h"
#include "worker/model/counter_random.h"

namespace emoe::worker {
namespace {

void check_options(const ModelOptions& options) {
  const LlamaConfig& config = options.config;
  if (options.full && options.lora.rank > 0) {
    throw std::invalid_argument("full tuning and LoRA exclude each other");
  }
  const std::vector<std::string>& linears = linear_names();
  for (const auto& target : options.lora.targets) {
    if (std::find(linears.begin(), linears.end(), target) == linears.end()) {
      throw std::invalid_argument("LoRA target '" + target + "' is no linear of a Llama layer");
    }
  }
  const EmoeOptions& emoe = options.emoe;
  const ExpertRouting& routing = emoe.routing;
  if (routing.num_experts == 0) return;
  if (config.intermediate_size % routing.num_experts != 0) {
    throw std::invalid_argument(std::to_string(routing.num_experts) +
                                " experts do not divide d_ff " +
                                std::to_string(config.intermediate_size));
  }
  if (routing.top_k < 1 || routing.top_k > routing.num_experts) {
    throw std::invalid_argument("top_k " + std::to_string(routing.top_k) + " is not in 1 … " +
                                std::to_string(routing.num_experts));
  }
  for (const auto& [layer, partition] : emoe.partitions) {
    if (layer < 0 || layer >= config.num_hidden_layers ||
        static_cast<int64_t>(partition.labels.size()) != config.intermediate_size ||
        partition.num_experts != routing.num_experts) {
      throw std::invalid_argument("partition of layer " + std::to_string(layer) +
                                  " does not fit the model");
    }
  }
}

}  // namespace

// Loads tensors one by one and registers what is trainable.
class ResidentStore::Loader {
 public:
  Loader(const ModelOptions& options, const WeightSource& source, ResidentStore& into)
      : options_(options), source_(source), into_(into) {
    if (options.emoe.routing.num_experts == 0) return;
    for (const auto& [layer, partition] : options.emoe.partitions) {
      orders_[layer] = std::make_shared<const NeuronOrder>(partition);
    }
  }

  [[nodiscard]] bool is_converted(int64_t layer) const { return orders_.contains(layer); }

  void load(const TensorSpec& spec, Linear& linear) {
    const Weight weight = load(spec);
    linear.weight = std::make_shared<DenseMatrix>(weight.compute);
    linear.master = weight.master;
    add_adapter(spec, linear.lora);
  }

  // The tensor in memory order; always a copy of the source, which may be a mapped file.
  [[nodiscard]] Weight load(const TensorSpec& spec) {
    const at::Tensor base = source_(spec.name, spec.shape);
    if (base.sizes() != at::IntArrayRef(spec.shape)) {
      throw std::invalid_argument("weight source gave " + spec.name +
                                  " another shape than asked for");
    }
    const at::Tensor memory = to_memory(spec, base, spec.ffn_dim());
    const auto on_device = [&](at::ScalarType type) {
      return memory.to(options_.device, type, /*non_blocking=*/false, /*copy=*/true).contiguous();
    };
    Weight weight;
    if (!options_.full) {
      weight.compute = on_device(options_.dtype);
      return weight;
    }
    weight.master = on_device(at::kFloat).set_requires_grad(true);
    weight.compute = weight.master;
    if (options_.dtype != at::kFloat) {
      weight.compute = weight.master.detach().to(options_.dtype);
      into_.copies_.emplace_back(weight.compute, weight.master);
    }
    add_parameter(spec, spec.name, weight.master, spec.ffn_dim());
    return weight;
  }

 private:
  void add_adapter(const TensorSpec& spec, Lora& lora) {
    const LoraOptions& options = options_.lora;
    const std::string name = spec.linear();
    if (options.rank == 0 ||
        std::find(options.targets.begin(), options.targets.end(), name) == options.targets.end()) {
      return;
    }
    const auto on_device = [&](const at::Tensor& tensor) {
      return tensor.to(options_.device).contiguous().set_requires_grad(true);
    };
    // Drawn in the original order, so that a seed means one adapter whatever the partition.
    const std::string a_name = lora_name(spec.name, 'A');
    const int a_dim = spec.ffn_dim() == 1 ? 1 : -1;
    const at::Tensor a = initial_lora_a(options.rank, spec.shape[1], options.seed, a_name);
    lora.a = on_device(to_memory(spec, a, a_dim));
    lora.b = on_device(at::zeros({spec.shape[0], options.rank}, at::kFloat));
    lora.scale = options.scale();
    lora.stream = derive_key(static_cast<uint64_t>(spec.layer),
                             static_cast<uint64_t>(linear_index(spec.role)));
    add_parameter(spec, a_name, lora.a, a_dim);
    add_parameter(spec, lora_name(spec.name, 'B'), lora.b, spec.ffn_dim() == 0 ? 0 : -1);
  }

  void add_parameter(const TensorSpec& spec, const std::string& name, const at::Tensor& tensor,
                     int dim) {
    const auto order = orders_.find(spec.layer);
    const bool permuted = dim >= 0 && order != orders_.end();
    into_.parameters_.push_back({.name = name,
                                 .tensor = tensor,
                                 .weight_decay = tensor.dim() > 1,
                                 .layer = spec.layer,
                                 .permuted_dim = permuted ? dim : -1,
                                 .order = permuted ? order->second : nullptr});
  }

  [[nodiscard]] at::Tensor to_memory(const TensorSpec& spec, const at::Tensor& tensor,
                                     int dim) const {
    const auto order = orders_.find(spec.layer);
    return order == orders_.end() ? tensor : order->second->to_memory(tensor, dim);
  }

  const ModelOptions& options_;
  const WeightSource& source_;
  ResidentStore& into_;
  std::map<int64_t, std::shared_ptr<const NeuronOrder>> orders_;  // of the converted layers
};

ResidentStore::ResidentStore(const ModelOptions& options, const WeightSource& source) {
  check_options(options);
  const at::NoGradGuard no_grad;
  Loader loader(options, source, *this);
  for (int64_t l = 0; l < options.config.num_hidden_layers; ++l) {
    layers_.push_back(std::make_shared<DecoderLayer>());
    if (loader.is_converted(l)) layers_.back()->experts = options.emoe.routing;
  }
  for (const TensorSpec& spec : TensorTable(options.config)) {
    if (Weight* outer = outer_.of(spec.role)) {
      *outer = loader.load(spec);
    } else if (DecoderLayer& layer = *layers_[spec.layer];
               Linear* linear = layer.linear(spec.role)) {
      loader.load(spec, *linear);
    } else {
      *layer.norm(spec.role) = loader.load(spec);
    }
  }
  if (options.config.tie_word_embeddings) outer_.head = outer_.embedding;
}

void ResidentStore::parameters_changed() {
  const at::NoGradGuard no_grad;
  for (const auto& [copy, master] : copies_) copy.copy_(master);
}

}  // namespace emoe::worker
