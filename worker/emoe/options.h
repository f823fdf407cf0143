#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace emoe::worker {

// Which experts a token uses, by the mean of their pre-SiLU gate activations (arXiv 2310.10908,
// section 3).
enum class Selector { top, bottom, not_top };

// The neurons of one converted layer as N experts of equal size.
struct Partition {
  int32_t num_experts = 0;
  // [d_ff], expert of each neuron in the base model's order; each value d_ff / N times
  std::vector<int32_t> labels;
  double inertia = 0.0;  // sum of squared distances of L2-normalised gate rows to their mean
  std::string method;    // kmeans | random | contiguous | file
  int64_t seed = 0;
  std::string weight_hash;  // SHA-256 of the gate_proj rows it was made from, as stored
};

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
