#include "worker/weights/peft.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"
#include "format/peft_config.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

bool is_adapter_parameter(const Parameter& parameter) {
  return parameter.name.ends_with(".lora_A.weight") || parameter.name.ends_with(".lora_B.weight");
}

std::vector<std::string> sorted(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  return names;
}

PeftConfig settings_of(const LoraOptions& lora) {
  return {.rank = lora.rank, .alpha = lora.alpha, .dropout = lora.dropout, .targets = lora.targets};
}

std::string config_text(const LoraOptions& lora, const std::string& base_name) {
  using Json = nlohmann::ordered_json;
  const bool whole = lora.alpha == std::floor(lora.alpha) && std::abs(lora.alpha) < 1e15;
  // The keys every PEFT version knows; the rest has defaults that mean "off".
  const Json config = {
      {"base_model_name_or_path", base_name},
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"layers_pattern", nullptr},
      {"layers_to_transform", nullptr},
      {"lora_alpha", whole ? Json(static_cast<int64_t>(lora.alpha)) : Json(lora.alpha)},
      {"lora_dropout", lora.dropout},
      {"modules_to_save", nullptr},
      {"peft_type", "LORA"},
      {"r", lora.rank},
      {"revision", nullptr},
      {"target_modules", sorted(lora.targets)},
      {"task_type", "CAUSAL_LM"}};
  return config.dump(2) + "\n";
}

}  // namespace

Result<PeftAdapter> read_peft_adapter(const fs::path& folder, const LlamaConfig& model) {
  EMOE_ASSIGN_OR_RETURN(PeftConfig config, read_peft_config(folder));
  EMOE_ASSIGN_OR_RETURN(SafetensorsHeader header, read_peft_header(folder));
  EMOE_ASSIGN_OR_RETURN(const SafetensorsFile file,
                        SafetensorsFile::open(folder / kPeftTensorFile, std::move(header)));
  EMOE_RETURN_IF_ERROR(check_peft_tensors(config, file.tensors(), model));
  PeftAdapter adapter;
  adapter.lora = {.rank = config.rank,
                  .alpha = config.alpha,
                  .dropout = config.dropout,
                  .targets = std::move(config.targets)};
  for (const auto& [name, info] : file.tensors()) {
    EMOE_ASSIGN_OR_RETURN(const at::Tensor tensor, file.tensor(name));
    if (!at::isfinite(tensor).all().item<bool>()) {
      return absl::InvalidArgumentError(
          absl::StrCat(info.file, ": ", name, ": has values that are not finite"));
    }
    adapter.tensors[name] = tensor.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  }
  return adapter;
}

Status load_peft_adapter(const PeftAdapter& adapter, Model& model) {
  const at::NoGradGuard no_grad;
  EMOE_RETURN_IF_ERROR(
      check_peft_settings(settings_of(adapter.lora), settings_of(model.options().lora)));
  for (const Parameter& parameter : model.parameters()) {
    if (!is_adapter_parameter(parameter)) continue;
    const auto found = adapter.tensors.find(parameter.name);
    EMOE_CHECK(found != adapter.tensors.end() && found->second.sizes() == parameter.tensor.sizes(),
               parameter.name);  // read_peft_adapter() has seen to it
    at::Tensor into = parameter.tensor;
    into.copy_(parameter.to_memory(found->second));
  }
  model.parameters_changed();
  return ok_status();
}

Status write_peft_adapter(Model& model, const std::string& base_name, const fs::path& folder) {
  const LoraOptions& lora = model.options().lora;
  if (lora.rank == 0) return absl::InvalidArgumentError("the model has no LoRA adapter to write");
  EMOE_RETURN_IF_ERROR(emoe::create_directories(folder));
  std::map<std::string, const Parameter*> by_name;  // in PEFT's file the names are sorted
  for (const Parameter& parameter : model.parameters()) {
    if (is_adapter_parameter(parameter)) by_name[parameter.name] = &parameter;
  }
  std::vector<SafetensorsWriter::Planned> plan;
  plan.reserve(by_name.size());
  for (const auto& [name, parameter] : by_name) {
    plan.push_back({name, "F32", parameter->tensor.sizes().vec()});
  }
  EMOE_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::create(folder / kPeftTensorFile, std::move(plan), {{"format", "pt"}}));
  for (const auto& [name, parameter] : by_name) {
    EMOE_RETURN_IF_ERROR(writer.write(parameter->stored()));
  }
  EMOE_RETURN_IF_ERROR(writer.close());
  EMOE_RETURN_IF_ERROR(
      write_file_atomically(folder / kPeftConfigFile, config_text(lora, base_name)));
  return sync_directory(folder);
}

}  // namespace emoe::worker
