#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/linear.h"
#include "worker/model/llama.h"
#include "worker/model/llama_layer.h"

namespace emoe::worker {

// All weights of a Llama, loaded, converted to the dtype and device of the computation, permuted
// where a layer is converted, and with what is trainable marked so.
struct LlamaWeights {
  Weight embedding;
  std::vector<LlamaLayer> layers;
  Weight final_norm;
  Weight head;  // the embedding itself where they are tied

  std::vector<Parameter> parameters;
  std::map<int64_t, at::Tensor> permutations;      // converted layer → [d_ff] int64, on the CPU
  std::map<std::string, const Lora*> adapters;     // Hugging Face weight name → its adapter
  std::map<std::string, const Weight*> trainable;  // full tuning: the same for every weight
};

// Throws std::invalid_argument for options that do not fit the model (see Llama::Options).
// `into` must stay where it is: its maps point into it.
void load_llama_weights(const Llama::Options& options, const Llama::WeightSource& source,
                        LlamaWeights& into);

// The d_ff dimension of a feed-forward weight (0: gate and up, 1: down), -1 for any other name.
[[nodiscard]] int ffn_dim(const std::string& weight_name);
// The layer a Hugging Face name belongs to, -1 if none.
[[nodiscard]] int64_t layer_of(const std::string& weight_name);

// From memory order back to the original neuron order: entry permutation[j] is memory entry j.
[[nodiscard]] at::Tensor to_original_order(const at::Tensor& tensor, int dim,
                                           const at::Tensor& permutation);

}  // namespace emoe::worker
