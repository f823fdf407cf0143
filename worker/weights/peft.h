#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "base/status.h"
#include "worker/model/model.h"

namespace emoe::worker {

// A LoRA adapter as PEFT keeps it (adapter_config.json, adapter_model.safetensors), in the base
// model's neuron order.
struct PeftAdapter {
  // Targets are the linears that have one, sorted; modules only where they are not all alike.
  LoraOptions lora;
  std::map<std::string, at::Tensor> tensors;  // "base_model.model.model.layers.0.…lora_A.weight"
};

// Reads an adapter of such a model strictly: a setting that changes what the adapter computes and that
// this engine does not compute (DoRA, modules_to_save, trained biases, …) is INVALID_ARGUMENT
// naming the key, and so is a tensor that is missing, superfluous or of another shape. NOT_FOUND
// without the two files; DATA_LOSS for a damaged one.
[[nodiscard]] Result<PeftAdapter> read_peft_adapter(const std::filesystem::path& folder,
                                                    const DecoderConfig& model);

// Copies the adapter, read for such a model, into one made with LoRA. INVALID_ARGUMENT naming what
// differs: rank, alpha, use_rslora, targets, or the modules. Dropout may differ.
[[nodiscard]] Status load_peft_adapter(const PeftAdapter& adapter, Model& model);

// Writes the model's adapter into `folder` (made if absent), tensors in fp32. `base_name` is what
// adapter_config.json gives as the base model. INVALID_ARGUMENT for a model without LoRA.
[[nodiscard]] Status write_peft_adapter(Model& model, const std::string& base_name,
                                        const std::filesystem::path& folder);

}  // namespace emoe::worker
