#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "format/rope_scaling.h"

namespace emoe {

// What a Llama-like decoder computes, whichever architecture's config.json says it: sizes, and a flag
// for each part that not all of them have. Names as in Hugging Face's config.json.
struct DecoderConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // d_ff
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  Rope rope;
  bool qkv_bias = false;
  bool output_bias = false;  // of o_proj
  bool mlp_bias = false;     // of gate_proj, up_proj and down_proj
  bool qk_norm = false;      // RMSNorm of each head's query and key, before they are turned
  // Of each layer, how many tokens one sees, itself and those just before it; 0: all before it.
  // Empty: 0 in every layer.
  std::vector<int64_t> windows;
  bool tie_word_embeddings = false;
  int64_t bos_token_id = 1;
  std::vector<int64_t> eos_token_ids{2};  // each of them ends a text
  // The file that names these; empty: none does, they are the architecture's default.
  std::string eos_token_file = "config.json";

  [[nodiscard]] int64_t window(int64_t layer) const { return windows.empty() ? 0 : windows[layer]; }

  // Reads config.json strictly, by the key list of its architecture (format/architecture.h): another
  // architecture, or a setting this engine does not compute (a type of rotary positions, another
  // activation, …), is INVALID_ARGUMENT naming file and key; nothing is silently ignored. The tokens
  // that end a text by a generation_config.json beside it count as well.
  [[nodiscard]] static Result<DecoderConfig> read(const std::filesystem::path& config_json);
  // The same from text; `source` names it in errors.
  [[nodiscard]] static Result<DecoderConfig> parse(const std::string& json_text,
                                                   const std::string& source);
  // config.json for a new model, which is a LlamaForCausalLM without biases (dtype: "float32",
  // "bfloat16", "float16").
  [[nodiscard]] std::string to_json(const std::string& dtype) const;
};

}  // namespace emoe
