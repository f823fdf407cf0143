#include "worker/model/llama_weights.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include <ATen/ATen.h>

#include "format/llama_tensors.h"
#include "worker/model/counter_random.h"

namespace emoe::worker {
namespace {

constexpr std::array<const char*, 7> kLinears = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                 "gate_proj", "up_proj", "down_proj"};

std::string weight_name(int64_t layer, const std::string& linear) {
  const bool attention = linear.size() == 6 && linear != "up_proj";
  return "model.layers." + std::to_string(layer) + (attention ? ".self_attn." : ".mlp.") + linear +
         ".weight";
}

Linear& linear_of(LlamaLayer& layer, size_t index) {
  Linear* const all[] = {&layer.q,    &layer.k,  &layer.v,   &layer.o,
                         &layer.gate, &layer.up, &layer.down};
  return *all[index];
}

void check_options(const Llama::Options& options) {
  const LlamaConfig& config = options.config;
  if (options.full && options.lora.rank > 0) {
    throw std::invalid_argument("full tuning and LoRA exclude each other");
  }
  for (const auto& target : options.lora.targets) {
    if (std::find(kLinears.begin(), kLinears.end(), target) == kLinears.end()) {
      throw std::invalid_argument("LoRA target '" + target + "' is no linear of a Llama layer");
    }
  }
  const EmoeOptions& emoe = options.emoe;
  if (emoe.num_experts == 0) return;
  if (config.intermediate_size % emoe.num_experts != 0) {
    throw std::invalid_argument(std::to_string(emoe.num_experts) + " experts do not divide d_ff " +
                                std::to_string(config.intermediate_size));
  }
  if (emoe.top_k < 1 || emoe.top_k > emoe.num_experts) {
    throw std::invalid_argument("top_k " + std::to_string(emoe.top_k) + " is not in 1 … " +
                                std::to_string(emoe.num_experts));
  }
  for (const auto& [layer, partition] : emoe.partitions) {
    if (layer < 0 || layer >= config.num_hidden_layers ||
        static_cast<int64_t>(partition.labels.size()) != config.intermediate_size ||
        partition.num_experts != emoe.num_experts) {
      throw std::invalid_argument("partition of layer " + std::to_string(layer) +
                                  " does not fit the model");
    }
  }
}

// Loads tensors one by one and registers what is trainable.
class Loader {
 public:
  Loader(const Llama::Options& options, const Llama::WeightSource& source, LlamaWeights& into)
      : options_(options), source_(source), into_(into) {}

  // The tensor in memory order; always a copy of the source, which may be a mapped file.
  void load(const std::string& name, const std::vector<int64_t>& shape, Weight& weight) {
    const int64_t layer = layer_of(name);
    const at::Tensor base = memory_order(source_(name, shape), layer, ffn_dim(name));
    if (base.sizes() != at::IntArrayRef(shape)) {
      throw std::invalid_argument("weight source gave " + name + " another shape than asked for");
    }
    weight.name = name;
    const auto on_device = [&](at::ScalarType type) {
      return base.to(options_.device, type, /*non_blocking=*/false, /*copy=*/true).contiguous();
    };
    if (!options_.full) {
      weight.compute = on_device(options_.dtype);
      return;
    }
    weight.master = on_device(at::kFloat).set_requires_grad(true);
    weight.compute =
        options_.dtype == at::kFloat ? weight.master : weight.master.detach().to(options_.dtype);
    into_.trainable[name] = &weight;
    const bool permuted = into_.permutations.contains(layer);
    into_.parameters.push_back(
        {name, weight.master, shape.size() > 1, layer, permuted ? ffn_dim(name) : -1});
  }

  void add_adapter(Linear& linear, size_t index, int64_t layer) {
    const auto& targets = options_.lora.targets;
    if (options_.lora.rank == 0 ||
        std::find(targets.begin(), targets.end(), kLinears[index]) == targets.end()) {
      return;
    }
    const std::string& name = linear.weight.name;
    const int64_t rank = options_.lora.rank;
    const auto on_device = [&](const at::Tensor& tensor) {
      return tensor.to(options_.device).contiguous().set_requires_grad(true);
    };
    const int dim = ffn_dim(name);
    const std::string a_name = lora_name(name, 'A');
    // Drawn in the original order, so that a seed means one adapter whatever the partition.
    const at::Tensor a =
        initial_lora_a(rank, linear.weight.compute.size(1), options_.lora.seed, a_name);
    linear.lora.a = on_device(memory_order(a, layer, dim == 1 ? 1 : -1));
    linear.lora.b = on_device(at::zeros({linear.weight.compute.size(0), rank}, at::kFloat));
    linear.lora.scale = options_.lora.scale();
    linear.lora.stream = derive_key(static_cast<uint64_t>(layer), index);
    into_.adapters[name] = &linear.lora;
    const bool permuted = into_.permutations.contains(layer);
    into_.parameters.push_back({a_name, linear.lora.a, true, layer, permuted && dim == 1 ? 1 : -1});
    into_.parameters.push_back(
        {lora_name(name, 'B'), linear.lora.b, true, layer, permuted && dim == 0 ? 0 : -1});
  }

 private:
  [[nodiscard]] at::Tensor memory_order(const at::Tensor& tensor, int64_t layer, int dim) const {
    const auto found = into_.permutations.find(layer);
    return dim < 0 || found == into_.permutations.end() ? tensor
                                                        : tensor.index_select(dim, found->second);
  }

  const Llama::Options& options_;
  const Llama::WeightSource& source_;
  LlamaWeights& into_;
};

void load_layer(Loader& loader, const LlamaConfig& config, int64_t index, LlamaLayer& layer) {
  const std::string prefix = "model.layers." + std::to_string(index);
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  const int64_t wide = config.intermediate_size;
  const std::vector<std::vector<int64_t>> shapes = {{q, hidden},   {kv, hidden},   {kv, hidden},
                                                    {hidden, q},   {wide, hidden}, {wide, hidden},
                                                    {hidden, wide}};
  for (size_t i = 0; i < kLinears.size(); ++i) {
    Linear& linear = linear_of(layer, i);
    loader.load(weight_name(index, kLinears[i]), shapes[i], linear.weight);
    loader.add_adapter(linear, i, index);
  }
  loader.load(prefix + ".input_layernorm.weight", {hidden}, layer.input_norm);
  loader.load(prefix + ".post_attention_layernorm.weight", {hidden}, layer.post_norm);
}

}  // namespace

int ffn_dim(const std::string& name) {
  if (name.find(".mlp.gate_proj.") != std::string::npos ||
      name.find(".mlp.up_proj.") != std::string::npos) {
    return 0;
  }
  return name.find(".mlp.down_proj.") != std::string::npos ? 1 : -1;
}

int64_t layer_of(const std::string& name) {
  const std::string prefix = "model.layers.";
  return name.starts_with(prefix) ? std::stoll(name.substr(prefix.size())) : -1;
}

at::Tensor to_original_order(const at::Tensor& tensor, int dim, const at::Tensor& permutation) {
  return tensor.index_select(dim, permutation.argsort());
}

void load_llama_weights(const Llama::Options& options, const Llama::WeightSource& source,
                        LlamaWeights& into) {
  check_options(options);
  const at::NoGradGuard no_grad;
  const LlamaConfig& config = options.config;
  if (options.emoe.num_experts > 0) {
    for (const auto& [layer, partition] : options.emoe.partitions) {
      into.permutations[layer] = at::tensor(partition.permutation(), at::kLong);
    }
  }
  Loader loader(options, source, into);
  loader.load(kEmbeddingName, {config.vocab_size, config.hidden_size}, into.embedding);
  into.layers.resize(static_cast<size_t>(config.num_hidden_layers));
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    LlamaLayer& layer = into.layers[static_cast<size_t>(l)];
    load_layer(loader, config, l, layer);
    if (into.permutations.contains(l)) {
      layer.experts =
          ExpertRouting{options.emoe.num_experts, options.emoe.top_k, options.emoe.selector};
    }
  }
  loader.load("model.norm.weight", {config.hidden_size}, into.final_norm);
  if (config.tie_word_embeddings) {
    into.head = into.embedding;
  } else {
    loader.load(kHeadName, {config.vocab_size, config.hidden_size}, into.head);
  }
}

}  // namespace emoe::worker
