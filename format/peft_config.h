#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace emoe {

// The two files of a PEFT folder.
inline constexpr char kPeftConfigFile[] = "adapter_config.json";
inline constexpr char kPeftTensorFile[] = "adapter_model.safetensors";

// What adapter_config.json says of a LoRA adapter.
struct PeftConfig {
  int64_t rank = 0;                  // r, from 1
  double alpha = 8.0;                // lora_alpha; the scale is alpha / rank
  double dropout = 0.0;              // in [0, 1)
  std::vector<std::string> targets;  // "q_proj", …: sorted, each once
};

// Reads the folder's adapter_config.json strictly: a setting that changes what the adapter computes
// and that the engine does not compute (DoRA, rsLoRA, rank patterns, trained biases, …) is
// INVALID_ARGUMENT naming the key, every problem at once. NOT_FOUND without the file.
[[nodiscard]] Result<PeftConfig> read_peft_config(const std::filesystem::path& folder);

}  // namespace emoe
