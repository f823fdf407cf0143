#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "format/adapter_modules.h"

namespace emoe::worker {

// Low-rank adapters on linears of the layers (arXiv 2106.09685; PEFT's conventions).
struct LoraOptions {
  int64_t rank = 0;  // 0: no adapter
  double alpha = 16.0;
  double dropout = 0.0;
  std::vector<std::string> targets;  // q_proj … down_proj, in every layer
  int64_t seed = 0;                  // A ~ Kaiming uniform (a = sqrt 5) as PEFT, B = 0
  bool rslora = false;               // rank-stabilised (arXiv 2312.03732)
  // Of an adapter that came from elsewhere, whose modules may differ in rank and alpha and from layer
  // to layer: each of them. Not empty, it counts in place of rank, alpha and targets.
  AdapterModules modules = {};

  // The adapter beside a linear, by the linear's path; nothing: it has none.
  [[nodiscard]] std::optional<AdapterModule> beside(const std::string& module) const;
  // What B A is multiplied by: alpha / rank, of rsLoRA alpha / sqrt(rank).
  [[nodiscard]] double scale(const AdapterModule& module) const;
};

}  // namespace emoe::worker
