#include "worker/weights/peft.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "base/diagnostics.h"
#include "base/file.h"
#include "format/dtype.h"
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

void check_same_options(const LoraOptions& adapter, const LoraOptions& model,
                        Diagnostics& problems) {
  if (adapter.rank != model.rank) {
    problems.add("r", absl::StrCat("is ", adapter.rank, ", the model has ", model.rank));
  }
  if (adapter.alpha != model.alpha) {
    problems.add("lora_alpha", absl::StrCat("is ", adapter.alpha, ", the model has ", model.alpha));
  }
  if (sorted(adapter.targets) != sorted(model.targets)) {
    problems.add("target_modules",
                 absl::StrCat("is ", absl::StrJoin(sorted(adapter.targets), ", "),
                              "; the model has ", absl::StrJoin(sorted(model.targets), ", ")));
  }
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

Result<PeftAdapter> read_peft_adapter(const fs::path& folder) {
  EMOE_ASSIGN_OR_RETURN(PeftConfig config, read_peft_config(folder));
  EMOE_ASSIGN_OR_RETURN(SafetensorsHeader header, read_peft_header(folder));
  EMOE_ASSIGN_OR_RETURN(const SafetensorsFile file,
                        SafetensorsFile::open(folder / kPeftTensorFile, std::move(header)));
  EMOE_RETURN_IF_ERROR(check_peft_tensors(config, file.tensors()));
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
  Diagnostics problems;
  check_same_options(adapter.lora, model.options().lora, problems);
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;  // into, from
  std::set<std::string> wanted;
  for (const Parameter& parameter : model.parameters()) {
    if (!is_adapter_parameter(parameter)) continue;
    wanted.insert(parameter.name);
    const auto found = adapter.tensors.find(parameter.name);
    if (found == adapter.tensors.end()) {
      problems.add(parameter.name, "is missing in the adapter");
    } else if (found->second.sizes() != parameter.tensor.sizes()) {
      problems.add(parameter.name,
                   absl::StrCat("has shape ", shape_text(found->second.sizes().vec()),
                                ", the model needs ", shape_text(parameter.tensor.sizes().vec())));
    } else {
      copies.emplace_back(parameter.tensor, parameter.to_memory(found->second));
    }
  }
  for (const auto& [name, tensor] : adapter.tensors) {
    if (!wanted.contains(name)) problems.add(name, "is in the adapter, but not in the model");
  }
  EMOE_RETURN_IF_ERROR(problems.to_status());
  for (auto& [into, from] : copies) into.copy_(from);
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
