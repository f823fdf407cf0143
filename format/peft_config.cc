#include "format/peft_config.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include <absl/strings/ascii.h>
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
using nlohmann::ordered_json;

constexpr int64_t kMaxRank = 1 << 20;

const std::set<std::string> kUnderstoodSettings{
    "peft_type",     "r",          "lora_alpha",   "lora_dropout",  "target_modules",
    "bias",          "use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform",
    "layers_pattern"};

// Without influence on what a loaded adapter computes.
const std::set<std::string> kHarmlessSettings{
    "base_model_name_or_path", "revision",         "inference_mode", "peft_version", "auto_mapping",
    "megatron_core",           "qalora_group_size"};

// Settings that would change the computation must be off. Null, false, {} and [] all mean off.
const std::set<std::string> kMustBeOff{"fan_in_fan_out",    "use_dora",
                                       "use_qalora",        "modules_to_save",
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

template <typename Json>
bool is_off(const Json& value) {
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

// Reads the keys one by one and notes what is wrong with them.
class SettingsReader {
 public:
  SettingsReader(const ordered_json& config, const std::string& source, Diagnostics& problems)
      : config_(config), source_(source), problems_(problems) {}

  [[nodiscard]] PeftConfig read() {
    PeftConfig settings;
    ModuleChoice& choice = settings.choice;
    if (!as_rank(value("r"), choice.rank)) {
      fail("r", absl::StrCat("is ", value("r").dump(), ", must be a whole number from 1"));
    }
    if (config_.contains("lora_alpha") && !as_number(value("lora_alpha"), choice.alpha)) {
      fail("lora_alpha", absl::StrCat("is ", value("lora_alpha").dump(), ", must be a number"));
    }
    read_dropout(settings.dropout);
    read_flag("use_rslora", settings.rslora);
    read_targets(choice);
    read_layers(choice);
    read_patterns("rank_pattern", as_rank, "whole numbers from 1", choice.rank_pattern);
    read_patterns("alpha_pattern", as_number, "numbers", choice.alpha_pattern);
    return settings;
  }

 private:
  static bool as_rank(const ordered_json& value, int64_t& rank) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 ||
        value.get<uint64_t>() > kMaxRank) {
      return false;
    }
    rank = value.get<int64_t>();
    return true;
  }
  static bool as_number(const ordered_json& value, double& number) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) return false;
    number = value.get<double>();
    return true;
  }

  [[nodiscard]] ordered_json value(const char* key) const {
    return config_.contains(key) ? config_[key] : ordered_json();
  }
  // True where the key has a value that means something.
  [[nodiscard]] bool is_set(const char* key) const { return !is_off(value(key)); }
  void fail(const char* key, const std::string& reason) { problems_.add(source_, key, reason); }

  void read_dropout(double& dropout) {
    const ordered_json given = value("lora_dropout");
    if (!config_.contains("lora_dropout")) return;
    if (!as_number(given, dropout) || dropout < 0 || dropout >= 1) {
      fail("lora_dropout", absl::StrCat("is ", given.dump(), ", must be in [0, 1)"));
    }
  }

  void read_flag(const char* key, bool& flag) {
    if (!is_set(key)) return;
    if (!value(key).is_boolean()) {
      fail(key, absl::StrCat("is ", value(key).dump().substr(0, 60), ", must be true or false"));
    }
    flag = true;
  }

  // A list of names, each a text; false: it is something else.
  static bool as_texts(const ordered_json& value, std::vector<std::string>& texts) {
    for (const ordered_json& entry : value) {
      if (!entry.is_string() || entry.get<std::string>().empty()) return false;
      texts.push_back(entry.get<std::string>());
    }
    return value.is_array();
  }

  void read_targets(ModuleChoice& choice) {
    const ordered_json targets = value("target_modules");
    if (targets.is_string() && !targets.get<std::string>().empty()) {
      const std::string text = targets.get<std::string>();
      if (absl::AsciiStrToLower(text) == "all-linear") {
        choice.targets = linear_names();
      } else {
        choice.target_pattern = text;
      }
    } else if (targets.empty() || !as_texts(targets, choice.targets)) {
      fail(
          "target_modules",
          absl::StrCat("is ", targets.dump().substr(0, 60),
                       ", must be a list of module names, a regular expression or \"all-linear\""));
    }
    // PEFT keeps a set: order and repeats mean nothing.
    std::ranges::sort(choice.targets);
    const auto twice = std::ranges::unique(choice.targets);
    choice.targets.erase(twice.begin(), twice.end());
  }

  void read_layers(ModuleChoice& choice) {
    constexpr char kLayers[] = "layers_to_transform";
    if (!is_set(kLayers)) return;  // layers_pattern is of no use without
    const ordered_json layers = value(kLayers);
    for (const ordered_json& layer : layers.is_array() ? layers : ordered_json::array({layers})) {
      if (!layer.is_number_unsigned() || layer.get<uint64_t>() > kMaxRank) {
        return fail(kLayers, absl::StrCat("is ", layers.dump().substr(0, 60),
                                          ", must be a layer's number or a list of them"));
      }
      choice.layers.push_back(layer.get<int64_t>());
    }
    if (!choice.target_pattern.empty()) {
      fail(kLayers, "goes with a list of target_modules, not with a regular expression");
    }
    ordered_json patterns = value("layers_pattern");
    if (is_off(patterns) || patterns == "") return;
    if (patterns.is_string()) patterns = ordered_json::array({patterns});
    if (!as_texts(patterns, choice.layer_patterns)) {
      fail("layers_pattern", absl::StrCat("is ", patterns.dump().substr(0, 60),
                                          ", must be a name or a list of them"));
    }
  }

  template <typename Value>
  void read_patterns(const char* key, bool (*as)(const ordered_json&, Value&), const char* wanted,
                     std::vector<ModulePattern<Value>>& patterns) {
    if (!is_set(key)) return;
    const ordered_json entries = value(key);
    bool good = entries.is_object();
    for (const auto& [expression, given] : entries.items()) {
      patterns.push_back({expression, {}});
      good = good && as(given, patterns.back().value);
    }
    if (good) return;
    fail(key, absl::StrCat("is ", entries.dump().substr(0, 60),
                           ", must be an object with module names and ", wanted));
  }

  const ordered_json& config_;
  const std::string& source_;
  Diagnostics& problems_;
};

struct WantedTensor {
  std::vector<int64_t> shape;
  int64_t rank;
};

// The tensors of an adapter, by PEFT's names.
std::map<std::string, WantedTensor> wanted_tensors(const AdapterModules& modules,
                                                   const DecoderConfig& model) {
  std::map<std::string, WantedTensor> wanted;
  for (const TensorSpec& spec : TensorTable(model)) {
    const auto found = spec.linear().empty() ? modules.end() : modules.find(spec.module());
    if (found == modules.end()) continue;
    const int64_t rank = found->second.rank;
    const std::string stem = absl::StrCat("base_model.model.", spec.module());
    wanted[stem + ".lora_A.weight"] = {{rank, spec.shape[1]}, rank};
    wanted[stem + ".lora_B.weight"] = {{spec.shape[0], rank}, rank};
  }
  return wanted;
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
  // Of two patterns that fit a module the first counts, so the order of the file does.
  const auto in_order = ordered_json::parse(text);
  PeftConfig settings = SettingsReader(in_order, source, problems).read();
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

Status check_peft_tensors(const AdapterModules& modules,
                          const std::map<std::string, TensorInfo>& tensors,
                          const DecoderConfig& model) {
  const auto wanted = wanted_tensors(modules, model);
  std::vector<std::string> missing;
  std::vector<std::string> superfluous;
  for (const auto& [name, tensor] : wanted) {
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
    const auto& [shape, rank] = found->second;
    if (info.shape != shape) {
      problems.add(info.file, name,
                   absl::StrCat("has shape ", shape_text(info.shape), "; with r ", rank,
                                " the model needs ", shape_text(shape)));
    }
  }
  return problems.to_status();
}

Status check_peft_settings(const LoraSettings& adapter, const LoraSettings& wanted) {
  const std::set<std::string> targets(wanted.targets.begin(), wanted.targets.end());
  const auto word = [](bool flag) { return flag ? "true" : "false"; };
  Diagnostics problems;
  if (adapter.rank != wanted.rank) {
    problems.add("r", absl::StrCat("is ", adapter.rank, ", lora.rank is ", wanted.rank));
  }
  if (adapter.alpha != wanted.alpha) {
    problems.add("lora_alpha",
                 absl::StrCat("is ", adapter.alpha, ", lora.alpha is ", wanted.alpha));
  }
  if (adapter.rslora != wanted.rslora) {
    problems.add("use_rslora", absl::StrCat("is ", word(adapter.rslora), ", lora.use_rslora is ",
                                            word(wanted.rslora)));
  }
  if (std::set<std::string>(adapter.targets.begin(), adapter.targets.end()) != targets) {
    problems.add("target_modules",
                 absl::StrCat("is ", absl::StrJoin(adapter.targets, ", "), "; lora.targets is ",
                              absl::StrJoin(targets, ", ")));
  }
  return problems.to_status();
}

}  // namespace emoe
