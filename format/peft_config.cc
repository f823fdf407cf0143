#include "format/peft_config.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/diagnostics.h"
#include "base/input_file.h"
#include "format/dtype.h"
#include "format/strict_json.h"
#include "format/tensor_table.h"

namespace emoe {
namespace {

using nlohmann::json;

constexpr int64_t kMaxRank = 1 << 20;

const std::set<std::string> kUnderstoodSettings{
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias"};

// Without influence on what a loaded adapter computes.
const std::set<std::string> kHarmlessSettings{"base_model_name_or_path",
                                              "revision",
                                              "inference_mode",
                                              "peft_version",
                                              "auto_mapping",
                                              "megatron_core",
                                              "qalora_group_size",
                                              "layers_pattern"};

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
                                       "exclude_modules",   "enable_lora",
                                       "merge_weights"};

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
    } else if (!kUnderstoodSettings.contains(key) && !kHarmlessSettings.contains(key) &&
               key != "task_type" && key != "init_lora_weights") {
      problems.add(source, key,
                   "is a key this program does not know and cannot tell what it changes: take it "
                   "out if the adapter computes the same without");
    }
  }
}

PeftConfig read_settings(const json& config, const std::string& source, Diagnostics& problems) {
  PeftConfig lora;
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
  const std::set<std::string> linears(linear_names().begin(), linear_names().end());
  std::set<std::string> names;  // PEFT keeps a set: order and repeats mean nothing
  for (const json& target : targets) {
    if (target.is_string() && linears.contains(target.get<std::string>())) {
      names.insert(target.get<std::string>());
    } else {
      problems.add(source, "target_modules",
                   absl::StrCat("names ", target.dump(), "; possible are ",
                                absl::StrJoin(linear_names(), ", "),
                                ", each in all layers: paths and other modules are not supported"));
    }
  }
  lora.targets.assign(names.begin(), names.end());
  return lora;
}

// The tensors of an adapter with these settings, by PEFT's names.
std::map<std::string, std::vector<int64_t>> wanted_shapes(const PeftConfig& config,
                                                          const LlamaConfig& model) {
  constexpr std::string_view kEnding = ".weight";
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorSpec& spec : TensorTable(model)) {
    if (std::ranges::find(config.targets, spec.linear()) == config.targets.end()) continue;
    const std::string stem =
        absl::StrCat("base_model.model.", spec.name.substr(0, spec.name.size() - kEnding.size()));
    shapes[stem + ".lora_A.weight"] = {config.rank, spec.shape[1]};
    shapes[stem + ".lora_B.weight"] = {spec.shape[0], config.rank};
  }
  return shapes;
}

// One line for all of them, which are usually many.
void add_together(const std::vector<std::string>& names, const char* what, Diagnostics& problems) {
  if (names.empty()) return;
  const size_t more = names.size() - 1;
  problems.add(names.front(), more == 0 ? absl::StrCat("is ", what)
                                        : absl::StrCat("and ", more, " more are ", what));
}

}  // namespace

Result<PeftConfig> read_peft_config(const std::filesystem::path& folder) {
  const std::string source = (folder / kPeftConfigFile).string();
  EMOE_ASSIGN_OR_RETURN(const std::string text,
                        read_input(folder / kPeftConfigFile, InputKind::text));
  EMOE_ASSIGN_OR_RETURN(const json config, parse_strict_json(text, source));
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": is not a JSON object"));
  }
  Diagnostics problems;
  check_settings(config, source, problems);
  PeftConfig settings = read_settings(config, source, problems);
  EMOE_RETURN_IF_ERROR(problems.to_status());
  return settings;
}

Result<SafetensorsHeader> read_peft_header(const std::filesystem::path& folder) {
  Result<SafetensorsHeader> header = read_safetensors_header(folder / kPeftTensorFile);
  if (!absl::IsNotFound(header.status()) || has_entry(folder / kPeftTensorFile)) return header;
  if (!has_entry(folder / "adapter_model.bin")) return header;
  return absl::NotFoundError(
      absl::StrCat(folder.string(),
                   ": has its tensors in adapter_model.bin, a PyTorch pickle, which this program "
                   "does not read: load it with PEFT once and save it, which writes ",
                   kPeftTensorFile));
}

Status check_peft_tensors(const PeftConfig& config,
                          const std::map<std::string, TensorInfo>& tensors,
                          const LlamaConfig& model) {
  const auto wanted = wanted_shapes(config, model);
  std::vector<std::string> missing;
  std::vector<std::string> superfluous;
  for (const auto& [name, shape] : wanted) {
    if (!tensors.contains(name)) missing.push_back(name);
  }
  for (const auto& [name, info] : tensors) {
    if (name.ends_with(".default.weight")) {  // the state dict of a model in memory
      return absl::InvalidArgumentError(
          absl::StrCat(info.file, ": ", name,
                       ": the names carry the adapter's name \"default\"; PEFT's files do "
                       "not: write them with save_pretrained()"));
    }
    if (!wanted.contains(name)) superfluous.push_back(name);
  }
  Diagnostics problems;
  add_together(missing, "missing in the adapter", problems);
  add_together(superfluous, "in the adapter, but not among the model's target_modules", problems);
  for (const auto& [name, info] : tensors) {
    const auto found = wanted.find(name);
    if (found == wanted.end()) continue;
    if (!is_weight_dtype(info.dtype)) {
      problems.add(info.file, name,
                   absl::StrCat("has dtype ", info.dtype, "; adapters are F32, BF16 or F16"));
    }
    if (info.shape != found->second) {
      problems.add(info.file, name,
                   absl::StrCat("has shape ", shape_text(info.shape), "; with r ", config.rank,
                                " the model needs ", shape_text(found->second)));
    }
  }
  return problems.to_status();
}

Status check_peft_settings(const PeftConfig& adapter, const PeftConfig& wanted) {
  const std::set<std::string> targets(wanted.targets.begin(), wanted.targets.end());
  Diagnostics problems;
  if (adapter.rank != wanted.rank) {
    problems.add("r", absl::StrCat("is ", adapter.rank, ", lora.rank is ", wanted.rank));
  }
  if (adapter.alpha != wanted.alpha) {
    problems.add("lora_alpha",
                 absl::StrCat("is ", adapter.alpha, ", lora.alpha is ", wanted.alpha));
  }
  if (std::set<std::string>(adapter.targets.begin(), adapter.targets.end()) != targets) {
    problems.add("target_modules",
                 absl::StrCat("is ", absl::StrJoin(adapter.targets, ", "), "; lora.targets is ",
                              absl::StrJoin(targets, ", ")));
  }
  return problems.to_status();
}

}  // namespace emoe
