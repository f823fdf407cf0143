#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/batch.h"

namespace emoe::worker {

// One low-rank adapter (arXiv 2106.09685): y += scale * dropout(x) A^T B^T. A and B are the fp32
// parameters themselves, in memory order. In bf16 models the adapter is computed in fp32 on the
// up-cast input, and the sum with the base product is rounded once, as PEFT does: B starts at 0 and
// grows by steps that bf16 would lose.
struct Lora {
  at::Tensor a;  // [rank, in]
  at::Tensor b;  // [out, rank]
  double scale = 0.0;
  uint64_t stream = 0;        // names this adapter's dropout; from layer and linear
  int64_t first_feature = 0;  // of the adapter's input, that A begins with

  [[nodiscard]] bool defined() const { return a.defined(); }
};

// Dropout of the adapters' inputs for one forward pass: which elements are zeroed is a hash of
// (step's seed, adapter, row key, position in the row, feature).
struct LoraDropout {
  double probability = 0.0;  // 0: none
  at::Tensor token_keys;     // [T] int64, on the model's device

  [[nodiscard]] bool active() const { return probability > 0.0; }
  // For the tokens `rows` [M] (int64, on the same device) only.
  [[nodiscard]] LoraDropout select(const at::Tensor& rows) const;
};

// Throws std::invalid_argument for a batch whose rows share tokens.
[[nodiscard]] LoraDropout make_lora_dropout(double probability, int64_t seed,
                                            const PackedBatch& batch);

// x * mask / (1 - p), fp32, fresh; the same mask for the same arguments, on every device. x is
// [T, features], fp32 or bf16, of the features from `first_feature` on.
[[nodiscard]] at::Tensor apply_lora_dropout(const at::Tensor& x, const LoraDropout& dropout,
                                            uint64_t stream, int64_t first_feature = 0);

// sum [T, in], fp32 or bf16, += the gradient of the adapter's input, of what it read: x [T, in] fp32 with
// the same mask.
void add_lora_dropout(const at::Tensor& x, const Lora& lora, const LoraDropout& dropout,
                      at::Tensor& sum);

// The same of blocks of features, on the CPU: row p of x [P, E] holds the features [first, first + E) of token
// tokens[p], first = starts[p].
struct FeatureBlocks {
  const int32_t* tokens;
  const int64_t* starts;
};
[[nodiscard]] at::Tensor apply_lora_dropout(const at::Tensor& x, const LoraDropout& dropout,
                                            uint64_t stream, const FeatureBlocks& blocks);

// What the adapter of `x` [T, in] reads: x itself, or with dropout in fp32.
[[nodiscard]] at::Tensor lora_input(const at::Tensor& x, const Lora& lora,
                                    const LoraDropout& dropout);

// A [rank, in] ~ U(-1/sqrt(in), 1/sqrt(in)): Kaiming uniform with a = sqrt 5, as PEFT. A function
// of seed, name and index only.
[[nodiscard]] at::Tensor initial_lora_a(int64_t rank, int64_t in, int64_t seed,
                                        const std::string& name);

// "model.layers.0.self_attn.q_proj.weight", 'A' →
// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
[[nodiscard]] std::string lora_name(const std::string& weight_name, char part);
// The way back: "model.layers.0.self_attn.q_proj".
[[nodiscard]] std::string module_of(const std::string& lora_name);

}  // namespace emoe::worker
