#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "format/llama_config.h"
#include "worker/emoe/options.h"
#include "worker/model/batch.h"
#include "worker/model/lora_options.h"

namespace emoe::worker {

// A tensor that training changes. `tensor` is fp32 and in memory order (permuted where its layer is
// converted).
struct Parameter {
  std::string name;  // Hugging Face or PEFT name: "model.layers.0.self_attn.q_proj.weight",
                     // "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
  at::Tensor tensor;
  bool weight_decay = true;  // false for tensors of one dimension (norms)
  int64_t layer = -1;        // -1: outside the layers
  int permuted_dim = -1;     // the d_ff dimension of a converted layer, else -1
};

// What one layer's gate decided for the tokens of a batch.
struct ExpertChoice {
  int64_t layer = 0;
  at::Tensor chosen;  // [T, k'] int32 expert indices, ascending (k' = k, or N - k for not_top)
  at::Tensor margin;  // [T] fp32 |score of the last taken - score of the first left out|
  at::Tensor gate_activation;  // [T, N] fp32 mean pre-SiLU activation per expert (the score itself)
};

struct ForwardOptions {
  bool experts_on = true;    // false: the dense function (mask off)
  bool training = false;     // dropout active
  int64_t dropout_seed = 0;  // of this step; with row_keys it fixes every random number
  std::function<void(const ExpertChoice&)> on_choice;  // called per converted layer when set
};

// Keys and values of the tokens seen so far, per layer; for generation.
struct KvCache {
  std::vector<at::Tensor> keys;  // [kv_heads, tokens, head_dim] each
  std::vector<at::Tensor> values;
  int64_t length = 0;
};

// A Llama decoder (RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied or own head)
// with optional LoRA on its linears and optional EMoE masks in some layers. Owns its weights. One
// thread uses it at a time. Sources: arXiv 2302.13971, 2307.09288; transformers modeling_llama.py
// for the order of operations in half precision.
class Llama {
 public:
  struct Options {
    LlamaConfig config;
    at::ScalarType dtype = at::ScalarType::Float;  // of frozen weights and activations
    at::Device device = at::Device(at::DeviceType::CPU);
    LoraOptions lora;   // rank 0 and full = false: nothing is trainable (evaluation)
    bool full = false;  // every weight is trainable; fp32 masters live in Parameter::tensor
    EmoeOptions emoe;
  };
  // Gives the base tensor of a Hugging Face name with the shape wanted, in the original neuron
  // order; throws if it cannot. Called once for each tensor; the result may be a view into a mapped
  // file.
  using WeightSource =
      std::function<at::Tensor(const std::string& name, const std::vector<int64_t>& shape)>;

  Llama(Options options, const WeightSource& weights);
  ~Llama();
  Llama(Llama&&) noexcept;

  // Sum over targets of weight * cross-entropy (fp32 scalar, with a graph back to the trainable
  // parameters unless grad mode is off) — one micro-batch's share of the global loss.
  [[nodiscard]] at::Tensor loss(const PackedBatch& batch, const ForwardOptions& forward);
  // Unweighted cross-entropy of every token with a target, 0 elsewhere: [T] fp32, no graph.
  [[nodiscard]] at::Tensor token_losses(const PackedBatch& batch, const ForwardOptions& forward);
  // [T, vocab] fp32, no graph.
  [[nodiscard]] at::Tensor logits(const PackedBatch& batch, const ForwardOptions& forward);
  // Logits [vocab] fp32 of the last of `ids`, whose keys and values are appended to the cache.
  [[nodiscard]] at::Tensor next_token_logits(const std::vector<int64_t>& ids, KvCache& cache,
                                             const ForwardOptions& forward);

  // In a fixed order, the same on every rank. Gradients arrive in parameter.tensor.grad().
  [[nodiscard]] std::vector<Parameter>& parameters();
  // After the optimiser changed the fp32 masters: refreshes what was derived from them (bf16 copies
  // of full tuning).
  void parameters_changed();

  // The trained weight of a linear or norm as a dense fp32 tensor in the ORIGINAL neuron order:
  // base + alpha/r * B A in fp32 for an adapted linear, the master itself in full tuning. `base` is
  // the original tensor as stored.
  [[nodiscard]] at::Tensor merged_weight(const std::string& name, const at::Tensor& base) const;
  // True when training can have changed the tensor of this Hugging Face name.
  [[nodiscard]] bool is_changed(const std::string& name) const;

  [[nodiscard]] const Options& options() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace emoe::worker
