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
#include "format/strict_json.h"
#include "worker/tensor/safetensors.h"
#include "worker/weights/neuron_order.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kTensorFile[] = "adapter_model.safetensors";
constexpr int64_t kMaxRank = 1 << 20;

const std::set<std::string> kUnderstood{"peft_type",      "r",   "lora_alpha", "lora_dropout",
                                        "target_modules", "bias"};

// Without influence on what a loaded adapter computes.
const std::set<std::string> kHarmless{"base_model_name_or_path",
                                      "revision",
                                      "inference_mode",
                                      "peft_version",
                                      "auto_mapping",
                                      "megatron_core",
                                      "qalora_group_size",
                                      "layers_pattern"};

const std::set<std::string> kLinears{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                     "gate_proj", "up_proj", "down_proj"};

// Settings that would change the computation must be off. Null, false, {} and [] all mean off.
const std::set<std::string> kMustBeOff{"fan_in_fan_out",    "use_rslora",
                                       "use_dora",          "use_qalora",
                                       "modules_to_save",   "layers_to_transform",
                                       "rank_pattern",      "alpha_pattern",
                                       "megatron_config",   "trainable_token_indices",
                                       "loftq_config",      "eva_config",
                                       "corda_config",      "lora_ga_config",
                                       "velora_config",     "alora_invocation_tokens",
                                       "monteclora_config", "layer_replication",
                                       "lora_bias",         "target_parameters",
                                       "use_bdlora",        "arrow_config",
                                       "kasa_config",       "ensure_weight_tying",
                                       "exclude_modules"};

bool is_off(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_object() || value.is_array()) && value.empty());
}

void check_settings(const json& config, const std::string& source, Diagnostics& problems) {
  const auto must_be = [&](const char* key, const std::vector<json>& allowed, const char* reason) {
    if (!config.contains(key)) return;
    if (std::find(allowed.begin(), allowed.end(), config[key]) == allowed.end()) {
      problems.add(source, key, absl::StrCat("is ", config[key].dump(), "; ", reason));
    }
  };
  if (!config.contains("peft_type")) problems.add(source, "peft_type", "is missing");
  must_be("peft_type", {"LORA"}, "only \"LORA\" is supported");
  must_be("bias", {"none"}, "only \"none\" is supported");
  must_be("task_type", {"CAUSAL_LM", nullptr}, "only \"CAUSAL_LM\" is supported");
  // The other initialisations (PiSSA, OLoRA, …) come with a changed base model.
  must_be("init_lora_weights", {true, false, "gaussian"},
          "only true, false and \"gaussian\" leave the base model as it is");
  for (const auto& [key, value] : config.items()) {
    if (kMustBeOff.contains(key)) {
      if (!is_off(value)) {
        problems.add(source, key,
                     absl::StrCat("is ", value.dump().substr(0, 60), "; this is not supported"));
      }
    } else if (!kUnderstood.contains(key) && !kHarmless.contains(key) && key != "task_type" &&
               key != "init_lora_weights") {
      problems.add(source, key, "is not known here, and it may change what the adapter computes");
    }
  }
}

LoraOptions read_lora(const json& config, const std::string& source, Diagnostics& problems) {
  LoraOptions lora;
  const json r = config.value("r", json());
  if (r.is_number_unsigned() && r.get<uint64_t>() >= 1 && r.get<uint64_t>() <= kMaxRank) {
    lora.rank = r.get<int64_t>();
  } else {
    problems.add(source, "r", absl::StrCat("is ", r.dump(), ", must be a whole number from 1"));
  }
  const json alpha = config.value("lora_alpha", json(8));  // PEFT's default
  if (alpha.is_number() && std::isfinite(alpha.get<double>())) {
    lora.alpha = alpha.get<double>();
  } else {
    problems.add(source, "lora_alpha", absl::StrCat("is ", alpha.dump(), ", must be a number"));
  }
  const json dropout = config.value("lora_dropout", json(0.0));
  if (dropout.is_number() && dropout.get<double>() >= 0 && dropout.get<double>() < 1) {
    lora.dropout = dropout.get<double>();
  } else {
    problems.add(source, "lora_dropout",
                 absl::StrCat("is ", dropout.dump(), ", must be in [0, 1)"));
  }
  const json targets = config.value("target_modules", json());
  if (!targets.is_array() || targets.empty()) {
    problems.add(source, "target_modules",
                 absl::StrCat("is ", targets.dump(), ", must be a list of linear names"));
    return lora;
  }
  std::set<std::string> names;  // PEFT keeps a set: order and repeats mean nothing
  for (const json& target : targets) {
    if (target.is_string() && kLinears.contains(target.get<std::string>())) {
      names.insert(target.get<std::string>());
    } else {
      problems.add(source, "target_modules",
                   absl::StrCat("names ", target.dump(), ", which is no linear of a Llama layer"));
    }
  }
  lora.targets.assign(names.begin(), names.end());
  return lora;
}

// The rank that an adapter's tensor, A [rank, in] or B [out, rank], has by its shape; -1 for none.
int64_t rank_of(const std::string& name, const TensorInfo& info) {
  if (info.shape.size() != 2) return -1;
  return info.shape[name.ends_with(".lora_B.weight") ? 1 : 0];
}

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
  // The keys every PEFT version knows; the rest has defaults that mean "off".
  nlohmann::ordered_json config;
  config["base_model_name_or_path"] = base_name;
  config["bias"] = "none";
  config["fan_in_fan_out"] = false;
  config["inference_mode"] = true;
  config["init_lora_weights"] = true;
  config["layers_pattern"] = nullptr;
  config["layers_to_transform"] = nullptr;
  if (lora.alpha == std::floor(lora.alpha) && std::abs(lora.alpha) < 1e15) {
    config["lora_alpha"] = static_cast<int64_t>(lora.alpha);
  } else {
    config["lora_alpha"] = lora.alpha;
  }
  config["lora_dropout"] = lora.dropout;
  config["modules_to_save"] = nullptr;
  config["peft_type"] = "LORA";
  config["r"] = lora.rank;
  config["revision"] = nullptr;
  config["target_modules"] = sorted(lora.targets);
  config["task_type"] = "CAUSAL_LM";
  return config.dump(2) + "\n";
}

}  // namespace

Result<PeftAdapter> read_peft_adapter(const fs::path& folder) {
  const std::string source = (folder / kConfigFile).string();
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(folder / kConfigFile));
  EMOE_ASSIGN_OR_RETURN(const json config, parse_strict_json(text, source));
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": is not a JSON object"));
  }
  Diagnostics problems;
  check_settings(config, source, problems);
  PeftAdapter adapter;
  adapter.lora = read_lora(config, source, problems);
  EMOE_RETURN_IF_ERROR(problems.to_status());

  EMOE_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(folder / kTensorFile));
  for (const auto& [name, info] : file.tensors()) {
    if (info.dtype != "F32" && info.dtype != "BF16" && info.dtype != "F16") {
      problems.add(info.file, name,
                   absl::StrCat("has dtype ", info.dtype, "; adapters are F32, BF16 or F16"));
      continue;
    }
    if (const int64_t rank = rank_of(name, info); rank != adapter.lora.rank) {
      problems.add(info.file, name,
                   absl::StrCat("has shape ", shape_text(info.shape), ", but r is ",
                                adapter.lora.rank, " in ", kConfigFile));
      continue;
    }
    EMOE_ASSIGN_OR_RETURN(const at::Tensor tensor, file.tensor(name));
    adapter.tensors[name] = tensor.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  }
  EMOE_RETURN_IF_ERROR(problems.to_status());
  return adapter;
}

Status load_peft_adapter(const PeftAdapter& adapter, Llama& model) {
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
      copies.emplace_back(parameter.tensor,
                          to_memory_order(parameter, found->second, model.options().emoe));
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

Status write_peft_adapter(Llama& model, const std::string& base_name, const fs::path& folder) {
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
      SafetensorsWriter::create(folder / kTensorFile, std::move(plan), {{"format", "pt"}}));
  for (const auto& [name, parameter] : by_name) {
    EMOE_RETURN_IF_ERROR(writer.write(
        to_original_order(*parameter, parameter->tensor.detach(), model.options().emoe)));
  }
  EMOE_RETURN_IF_ERROR(writer.close());
  EMOE_RETURN_IF_ERROR(write_file_atomically(folder / kConfigFile, config_text(lora, base_name)));
  return sync_directory(folder);
}

}  // namespace emoe::worker
