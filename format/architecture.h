#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "format/config_reader.h"

namespace emoe {

// A key of config.json with the only values that this engine computes; any other is an error.
struct FixedKey {
  std::string key;
  std::vector<nlohmann::json> allowed;
};

// What sets one architecture apart from the others, as data: everything that a Llama-like decoder may
// have is a flag of DecoderConfig, which the engine looks at. Sources: transformers'
// configuration_*.py and modeling_*.py of versions 4.40 to 5.
struct Architecture {
  std::string model_type;  // "qwen2"
  std::string class_name;  // "Qwen2ForCausalLM"
  // Keys that only some architectures have, and this one reads.
  std::set<std::string> keys;
  // Keys that have other allowed values here than in general.
  std::vector<FixedKey> fixed;

  // What an absent key means; 0: as of num_attention_heads and hidden_size.
  int64_t key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t positions = 2048;
  int64_t sliding_window = 0;  // 0: none
  std::vector<int64_t> end_ids;

  enum class Bias { none, by_attention_bias, of_qkv } attention_bias = Bias::none;
  bool qk_norm = false;
  // by_layer: use_sliding_window, max_window_layers, layer_types.
  enum class Window { none, all_layers, by_layer } window = Window::none;
};

[[nodiscard]] const std::vector<Architecture>& architectures();

// The one that config.json names by model_type and architectures; without one that is known, a
// problem is noted that names those there are, and the first is given back.
[[nodiscard]] const Architecture& find_architecture(ConfigReader& reader);

// Notes every key that this architecture does not read and that may change what is computed.
void check_keys(const Architecture& architecture, ConfigReader& reader);

}  // namespace emoe
