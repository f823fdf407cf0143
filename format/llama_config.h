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
  // The file that names these; empty: none does, they are the default.
  std::string eos_token_file = "config.json";

  // Reads config.json strictly: another architecture, or a setting this engine does not compute
  // (rope scaling, biases, another activation, …), is INVALID_ARGUMENT naming file and key; nothing
  // is silently ignored. The tokens that end a text by a generation_config.json beside it count as
  // well.
  [[nodiscard]] static Result<LlamaConfig> read(const std::filesystem::path& config_json);
  // The same from text; `source` names it in errors.
  [[nodiscard]] static Result<LlamaConfig> parse(const std::string& json_text,
                                                 const std::string& source);
  // config.json for a new model (dtype: "float32", "bfloat16", "float16").
  [[nodiscard]] std::string to_json(const std::string& dtype) const;
};

}  // namespace emoe
