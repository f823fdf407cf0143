#pragma once

#include <cstdint>
#include <map>

#include "format/partition_file.h"

namespace emoe::worker {

// Which experts a token uses, by the mean of their pre-SiLU gate activations (arXiv 2310.10908,
// section 3).
enum class Selector { top, bottom, not_top };

// How the converted layers of a model choose.
struct ExpertRouting {
  int64_t num_experts = 0;  // N, divides d_ff; 0: plain dense
  int64_t top_k = 0;        // 1 … N
  Selector selector = Selector::top;
};

// What the model needs to know about EMoE.
struct EmoeOptions {
  ExpertRouting routing;
  std::map<int64_t, Partition> partitions;  // converted layer → its partition, of N experts
};

}  // namespace emoe::worker
