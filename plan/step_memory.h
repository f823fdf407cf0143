#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "format/decoder_config.h"

namespace emoe {

// What decides how much memory a training step takes on one rank.
struct StepShape {
  int64_t tokens = 0;       // T of the largest micro-batch, padding included
  int64_t targets = 0;      // M, those of them with a loss
  int64_t dtype_bytes = 4;  // of weights and activations: 4, or 2 in half precision
  bool full = false;        // full tuning; else LoRA
  int64_t lora_rank = 0;
  std::set<std::string> lora_targets;  // of linear_names()
  int64_t experts = 0;                 // N; 0: dense
  int64_t top_k = 0;
  std::set<int64_t> converted;  // layers with experts
  bool sparse = false;          // these compute the chosen experts only
  // On a processor that does not multiply bf16, of a bf16 step: single operands and results of
  // products have fp32 copies, and attention keeps its inputs and its result in fp32, too.
  bool widens = false;
  // Ranks that share the weights (parallel.shard_base): the base's; in full tuning the trained ones with
  // their gradients and moments.
  int64_t shards = 1;
  int64_t tensor = 1;  // ranks that share each layer (parallel.tensor)
  // Layers but the last keep their inputs alone and are computed anew in the backward pass (train.recompute).
  bool recompute = false;
  bool cuda = false;  // on a GPU, where chunks of logits are larger
  // Of the base as it is stored. Shared frozen weights stay in half precision where they are stored so,
  // also where the activations are fp32.
  int64_t stored_bytes = 4;
};

// Bytes of tensors on one rank. The program itself, its libraries and the threads' stacks come on
// top (see rank_memory.h).
struct StepMemory {
  int64_t base = 0;         // weights as they are computed with, trained fp32 ones apart
  int64_t trained = 0;      // fp32 values of what is trained
  int64_t gradients = 0;    // fp32, of these
  int64_t optimizer = 0;    // AdamW's two moments, fp32
  int64_t activations = 0;  // what the forward pass keeps for the backward pass
  int64_t workspace = 0;    // what is there for a moment on top, where the sum is largest
  int64_t gathered = 0;     // of shared weights: the layer that computes, and the one next to it

  [[nodiscard]] int64_t total() const {
    return base + trained + gradients + optimizer + activations + workspace + gathered;
  }
};

// Elements of all tensors of a model.
[[nodiscard]] int64_t weight_elements(const DecoderConfig& config);

// Bytes of a value, two or four, in files that have so many bytes of such a model's weights. 0 bytes: not known,
// or a random start, which is in fp32.
[[nodiscard]] int64_t stored_value_bytes(int64_t file_bytes, const DecoderConfig& config);
// Elements of A and B of all adapters, of the whole model; 0 in full tuning.
[[nodiscard]] int64_t adapter_elements(const DecoderConfig& config, const StepShape& shape);

// The peak of a step as the engine computes it (worker/model): per layer and token it keeps the
// input of each norm (of q and k too, where they have one), the inputs of linears that are trained or have an adapter, rotated queries
// and keys, values, attention's output, and gate and up, of the targets alone in the last layer.
[[nodiscard]] StepMemory step_memory(const DecoderConfig& config, const StepShape& shape);

// The peak of a pass that nothing is learned from (an evaluation): of each layer only what it hands to the
// next one stays, so the layer that holds most decides. `shape.full` and its adapters count nothing.
[[nodiscard]] StepMemory forward_memory(const DecoderConfig& config, const StepShape& shape);

}  // namespace emoe
