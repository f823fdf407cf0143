#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace emoe {

// The shape of a Llama model; names as in Hugging Face's config.json (transformers LlamaConfig).
struct LlamaConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // d_ff
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  bool tie_word_embeddings = false;
  int64_t bos_token_id = 1;
  std::vector<int64_t> eos_token_ids{2};  // each of them ends a text
  bool eos_token_given = true;            // false: config.json names none, this is the default

  // Reads config.json strictly: another architecture, or a setting this engine does not compute
  // (rope scaling, biases, another activation, …), is INVALID_ARGUMENT naming file and key; nothing
  // is silently ignored.
  [[nodiscard]] static Result<LlamaConfig> read(const std::filesystem::path& config_json);
  // The same from text; `source` names it in errors.
  [[nodiscard]] static Result<LlamaConfig> parse(const std::string& json_text,
                                                 const std::string& source);
  // config.json for a new model (dtype: "float32" | "bfloat16").
  [[nodiscard]] std::string to_json(const std::string& dtype) const;
  [[nodiscard]] int64_t parameter_count() const;
};

// What an optimiser step trained on, all ranks together.
struct TrainingWork {
  int64_t tokens = 0;  // real ones, no padding
  int64_t target_tokens = 0;
  int64_t squared_lengths = 0;     // sum over the rows of length²
  bool full = false;               // every weight has a gradient, else only adapters
  int64_t adapter_parameters = 0;  // elements of LoRA's A and B
};

// Floating-point operations (a product and a sum are two) that the step needs by the mathematics,
// whatever the engine computes on top (padding) or leaves out:
//   per token       and element of a layer's linears: 2 forward, 2 for the gradient of the input, 2
//                   for that of the weight in full tuning; of an adapter: 6
//   per target      the same for each element of the output head
//   per row         attention, each query with the keys up to it, scores and values, forward and
//                   twice that backward: 6 · layers · heads · head_dim · length²
// Norms, activations, softmax and embedding are left out, as in "PaLM" (arXiv 2204.02311, appendix
// B). The masks of EMoE take nothing off: the dense model's work is the measure.
[[nodiscard]] double training_flops(const LlamaConfig& config, const TrainingWork& work);

}  // namespace emoe
