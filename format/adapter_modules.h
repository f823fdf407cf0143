#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "format/decoder_config.h"

namespace emoe {

// One low-rank adapter's own settings.
struct AdapterModule {
  int64_t rank = 0;
  double alpha = 0.0;

  [[nodiscard]] bool operator==(const AdapterModule&) const = default;
};
// By the linear it stands beside: "model.layers.0.self_attn.q_proj".
using AdapterModules = std::map<std::string, AdapterModule>;

// A value for the modules that a regular expression names.
template <typename Value>
struct ModulePattern {
  std::string expression;
  Value value;
};

// Which linears of a model have an adapter, with which rank and alpha: PEFT's keys of LoraConfig, with
// their meaning there (peft/tuners/tuners_utils.py, check_target_module_exists).
struct ModuleChoice {
  int64_t rank = 0;
  double alpha = 8.0;
  // A linear whose path is one of these or ends in ".one"; or, with no list, the linears whose whole
  // path matches `target_pattern`.
  std::vector<std::string> targets;
  std::string target_pattern;
  // With a list: only in these layers (empty: in all), whose number stands behind one of these names
  // (empty: behind any).
  std::vector<int64_t> layers;
  std::vector<std::string> layer_patterns;
  // The first whose expression fits the end of the path.
  std::vector<ModulePattern<int64_t>> rank_pattern;
  std::vector<ModulePattern<double>> alpha_pattern;
};

// INVALID_ARGUMENT with everything that is wrong, under PEFT's names: an expression that PCRE2 refuses,
// a target that is no linear of the model's layers (the head, an embedding), and a choice of nothing.
[[nodiscard]] Result<AdapterModules> adapter_modules(const ModuleChoice& choice,
                                                     const DecoderConfig& model,
                                                     const std::string& source);

// "q_proj": the last part of a module's path.
[[nodiscard]] std::string linear_of(const std::string& module);
// Of all of them, each once, sorted.
[[nodiscard]] std::vector<std::string> linears_of(const AdapterModules& modules);

}  // namespace emoe
