#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "format/llama_config.h"
#include "format/safetensors_header.h"

namespace emoe {

// The two files of a PEFT folder.
inline constexpr char kPeftConfigFile[] = "adapter_config.json";
inline constexpr char kPeftTensorFile[] = "adapter_model.safetensors";

// The settings of a LoRA adapter, from its adapter_config.json.
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

// The header of the folder's kPeftTensorFile; errors as read_safetensors_header(), and what to do where
// the folder has an adapter_model.bin instead.
[[nodiscard]] Result<SafetensorsHeader> read_peft_header(const std::filesystem::path& folder);

// Checks that the adapter's tensors (of kPeftTensorFile) are those that its settings ask for in a
// model, A [rank, in] and B [out, rank] of each target in each layer, and F32, BF16 or F16:
// INVALID_ARGUMENT with every one that is missing, differs or is there for nothing.
[[nodiscard]] Status check_peft_tensors(const PeftConfig& config,
                                        const std::map<std::string, TensorInfo>& tensors,
                                        const LlamaConfig& model);

// Checks that an adapter can be trained on with these settings: INVALID_ARGUMENT with each that
// differs. Dropout may.
[[nodiscard]] Status check_peft_settings(const PeftConfig& adapter, const PeftConfig& wanted);

}  // namespace emoe
