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
#include "format/tensor_table.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

bool is_adapter_parameter(const Parameter& parameter) {
  return parameter.name.ends_with(".lora_A.weight") || parameter.name.ends_with(".lora_B.weight");
}

LoraSettings settings_of(const LoraOptions& lora) {
  return {.rank = lora.rank, .alpha = lora.alpha, .rslora = lora.rslora, .targets = lora.targets};
}

// Each adapter of a model with these options.
AdapterModules modules_of(const LoraOptions& lora, const DecoderConfig& model) {
  AdapterModules modules;
  for (const TensorSpec& spec : TensorTable(model)) {
    if (spec.linear().empty()) continue;
    if (const auto module = lora.beside(spec.module())) modules[spec.module()] = *module;
  }
  return modules;
}

Json number(double value) {
  const bool whole = value == std::floor(value) && std::abs(value) < 1e15;
  return whole ? Json(static_cast<int64_t>(value)) : Json(value);
}

// Names of linears where they have adapters in every layer, else the path of each module.
Json targets_text(const AdapterModules& modules, const DecoderConfig& model) {
  const std::vector<std::string> linears = linears_of(modules);
  if (std::ssize(modules) == std::ssize(linears) * model.num_hidden_layers) return linears;
  Json paths = Json::array();
  for (const auto& [path, module] : modules) paths.push_back(path);
  return paths;
}

std::string config_text(const LoraOptions& lora, const DecoderConfig& model,
                        const std::string& base_name) {
  const AdapterModules modules = modules_of(lora, model);
  // The keys every PEFT version knows; the rest has defaults that mean "off".
  Json config = {{"base_model_name_or_path", base_name},
                 {"bias", "none"},
                 {"fan_in_fan_out", false},
                 {"inference_mode", true},
                 {"init_lora_weights", true},
                 {"layers_pattern", nullptr},
                 {"layers_to_transform", nullptr},
                 {"lora_alpha", number(lora.alpha)},
                 {"lora_dropout", lora.dropout},
                 {"modules_to_save", nullptr},
                 {"peft_type", "LORA"},
                 {"r", lora.rank},
                 {"revision", nullptr},
                 {"target_modules", targets_text(modules, model)},
                 {"task_type", "CAUSAL_LM"}};
  if (lora.rslora) config["use_rslora"] = true;
  for (const auto& [path, module] : modules) {
    if (module.rank != lora.rank) config["rank_pattern"][path] = module.rank;
    if (module.alpha != lora.alpha) config["alpha_pattern"][path] = number(module.alpha);
  }
  return config.dump(2) + "\n";
}

}  // namespace

Result<PeftAdapter> read_peft_adapter(const fs::path& folder, const DecoderConfig& model) {
  EMOE_ASSIGN_OR_RETURN(const PeftConfig config, read_peft_config(folder));
  EMOE_ASSIGN_OR_RETURN(SafetensorsHeader header, read_peft_header(folder));
  EMOE_ASSIGN_OR_RETURN(const SafetensorsFile file,
                        SafetensorsFile::open(folder / kPeftTensorFile, std::move(header)));
  EMOE_ASSIGN_OR_RETURN(AdapterModules modules,
                        adapter_modules(config.choice, model, (folder / kPeftConfigFile).string()));
  EMOE_RETURN_IF_ERROR(check_peft_tensors(modules, file.tensors(), model));
  PeftAdapter adapter;
  adapter.lora = {.rank = config.choice.rank,
                  .alpha = config.choice.alpha,
                  .dropout = config.dropout,
                  .targets = linears_of(modules),
                  .rslora = config.rslora};
  if (modules_of(adapter.lora, model) != modules) adapter.lora.modules = std::move(modules);
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
  const DecoderConfig& config = model.options().config;
  if (modules_of(adapter.lora, config) != modules_of(model.options().lora, config)) {
    return absl::InvalidArgumentError(
        "the adapter has other ranks, alphas or layers than the model was made with");
  }
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
  EMOE_RETURN_IF_ERROR(write_file_atomically(folder / kPeftConfigFile,
                                             config_text(lora, model.options().config, base_name)));
  return sync_directory(folder);
}

}  // namespace emoe::worker
