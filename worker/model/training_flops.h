#pragma once

#include <cstdint>

#include "format/llama_config.h"

namespace emoe::worker {

// What an optimiser step trained on, all ranks together.
struct TrainingWork {
  int64_t tokens = 0;  // real ones, no padding
  int64_t target_tokens = 0;
  int64_t squared_lengths = 0;     // sum over the rows of length²
  bool full = false;               // every weight has a gradient, else only adapters
  int64_t adapter_parameters = 0;  // elements of LoRA's A and B
};

// Floating-point operations (a product and a sum are two) that the step needs by the mathematics,
// whatever the engine computes on top (padding) or leaves out:
//   per token       and element of a layer's linears: 2 forward, 2 for the gradient of the input, 2
//                   for that of the weight in full tuning; of an adapter: 6
//   per target      the same for each element of the output head
//   per row         attention, each query with the keys up to it, scores and values, forward and
//                   twice that backward: 6 · layers · heads · head_dim · length²
// Norms, activations, softmax and embedding are left out, as in "PaLM" (arXiv 2204.02311, appendix
// B). The masks of EMoE take nothing off: the dense model's work is the measure.
[[nodiscard]] double training_flops(const LlamaConfig& config, const TrainingWork& work);

}  // namespace emoe::worker
