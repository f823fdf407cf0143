#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emoe::worker {

// Low-rank adapters on the linears of every layer (arXiv 2106.09685; PEFT's conventions).
struct LoraOptions {
  int64_t rank = 0;  // 0: no adapter
  double alpha = 16.0;
  double dropout = 0.0;
  std::vector<std::string> targets;  // q_proj … down_proj
  int64_t seed = 0;                  // A ~ Kaiming uniform (a = sqrt 5) as PEFT, B = 0

  [[nodiscard]] double scale() const { return rank == 0 ? 0.0 : alpha / static_cast<double>(rank); }
};

}  // namespace emoe::worker
