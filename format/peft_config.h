#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "format/adapter_modules.h"
#include "format/decoder_config.h"
#include "format/safetensors_header.h"

namespace emoe {

// The two files of a PEFT folder.
inline constexpr char kPeftConfigFile[] = "adapter_config.json";
inline constexpr char kPeftTensorFile[] = "adapter_model.safetensors";

// The settings of a LoRA adapter, from its adapter_config.json.
struct PeftConfig {
  ModuleChoice choice;   // r, lora_alpha, target_modules and what goes with them
  double dropout = 0.0;  // in [0, 1)
  bool rslora = false;   // the scale is alpha / sqrt(rank) in place of alpha / rank
};

// Reads the folder's adapter_config.json strictly: a setting that changes what the adapter computes
// and that the engine does not compute (DoRA, modules_to_save, trained biases, …) is INVALID_ARGUMENT
// naming the key, every problem at once. NOT_FOUND without the file.
[[nodiscard]] Result<PeftConfig> read_peft_config(const std::filesystem::path& folder);

// The header of the folder's kPeftTensorFile; errors as read_safetensors_header(), and what to do where
// the folder has an adapter_model.bin instead.
[[nodiscard]] Result<SafetensorsHeader> read_peft_header(const std::filesystem::path& folder);

// Checks that the adapter's tensors (of kPeftTensorFile) are those of the modules, A [rank, in] and B
// [out, rank] of each, and F32, BF16 or F16: INVALID_ARGUMENT with every one that is missing, differs or
// is there for nothing.
[[nodiscard]] Status check_peft_tensors(const AdapterModules& modules,
                                        const std::map<std::string, TensorInfo>& tensors,
                                        const DecoderConfig& model);

// What a job says of its adapters, and one that it is to start from must have.
struct LoraSettings {
  int64_t rank = 0;
  double alpha = 0.0;
  bool rslora = false;
  std::vector<std::string> targets;  // linears
};

// Checks that an adapter can be trained on with these settings: INVALID_ARGUMENT with each that
// differs. Dropout may, and so may its layers and patterns, which are the adapter's own.
[[nodiscard]] Status check_peft_settings(const LoraSettings& adapter, const LoraSettings& wanted);

}  // namespace emoe
