#pragma once

#include <cstdint>

#include "format/decoder_config.h"

namespace emoe {

// What of a step's rows its work depends on, all ranks together.
struct StepFigures {
  int64_t tokens = 0;  // real ones
  int64_t target_tokens = 0;
  int64_t squared_lengths = 0;  // sum over the rows of length²
};

// Floating-point operations (a product and a sum are two) that an optimiser step needs by the
// mathematics, all ranks together, whatever the engine computes on top (padding) or leaves out:
//   per token       and element of a layer's linears: 2 forward, 2 for the gradient of the input, 2
//                   for that of the weight in full tuning; of an adapter: 6
//   per target      the same for each element of the output head
//   per row         attention, each query with the keys up to it, scores and values, forward and
//                   twice that backward: 6 · layers · heads · head_dim · length²
// Norms, activations, softmax and embedding are left out, as in "PaLM" (arXiv 2204.02311, appendix
// B). The masks of EMoE and sliding windows take nothing off: the dense model's work is
// the measure.
class TrainingFlops {
 public:
  // `adapter_parameters`: elements of LoRA's A and B; 0 in full tuning.
  TrainingFlops(const DecoderConfig& config, bool full, int64_t adapter_parameters);

  [[nodiscard]] double of(const StepFigures& step) const;

 private:
  double per_weight_;
  double linears_;  // elements
  double head_;     // elements
  double adapters_;
  double attention_;  // layers · heads · head_dim
};

}  // namespace emoe
