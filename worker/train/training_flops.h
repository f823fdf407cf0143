#pragma once

#include <cstdint>

#include "format/decoder_config.h"
#include "worker/batching/micro_batches.h"

namespace emoe::worker {

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

  [[nodiscard]] double of(const StepBatches& step) const;

 private:
  double per_weight_;
  double linears_;  // elements
  double head_;     // elements
  double adapters_;
  double attention_;  // layers · heads · head_dim
};

}  // namespace emoe::worker
