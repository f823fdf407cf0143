#pragma once

#include <cstdint>
#include <vector>

#include "plan/elements.h"
#include "plan/step_memory.h"

namespace emoe {

// A forward pass of one rank.
struct MicroBatch {
  int64_t tokens = 0;   // computed ones, padding included
  int64_t targets = 0;  // of them, those with a loss
};

// A suite is scored in passes of so many times a micro-batch's tokens: forward alone holds the activations
// of one layer, a training step those of all.
inline constexpr int64_t kSuitePass = 4;

// A rank of a run, as far as its memory depends on it.
struct RankShape {
  bool trains = true;         // else it evaluates
  int64_t adapter_bytes = 0;  // of an adapter that an evaluation puts on its model
  StepShape step;             // its tokens and targets are those of each micro-batch
  bool cuda = false;          // the tensors are a GPU's
  bool exchanges = false;     // there are other ranks
  bool copies_state = false;  // checkpoints are written beside a step, from a copy (LoRA)
  bool packs = false;         // the frozen matrices are packed, see packed_weights()
  bool exports = false;       // rank 0 writes the merged model and checks it
};

// One rank where it holds most. A rank that exports has its peak then where `exporting` is more than
// what a step takes.
struct RankMemory {
  int64_t program = 0;  // the process without tensors: code, libraries, threads' stacks
  StepMemory step;
  int64_t packed = 0;      // what packed weights take more than those of `step`
  int64_t checkpoint = 0;  // the copy of the state that is being written
  int64_t kept = 0;       // blocks that tensors have left and the allocator keeps for the next ones
  int64_t exporting = 0;  // all of it but the program, while the model is written and checked
  // On a GPU's host, beside all that: the process, and what of the state is being written.
  int64_t host_program = 0;
  int64_t host_checkpoint = 0;

  [[nodiscard]] int64_t training() const { return step.total() + packed + checkpoint + kept; }
  [[nodiscard]] bool peaks_in_export() const { return exporting > training(); }
  [[nodiscard]] int64_t total() const {
    return program + (peaks_in_export() ? exporting : training());
  }
};

// The micro-batch that takes most decides; of a training also those of its evaluations, `evaluated`. With no
// micro-batch: what is there before the first step.
[[nodiscard]] RankMemory rank_memory(const DecoderConfig& config, const RankShape& shape,
                                     const std::vector<MicroBatch>& micro_batches,
                                     const std::vector<MicroBatch>& evaluated = {});

// A rank that merges adapters into a model, or writes it with its neurons in another order: it reads,
// changes, writes and checks it layer by layer.
struct Rewriting {
  int64_t adapter_bytes = 0;     // of all adapters, which stay
  int64_t stored_value = kFp32;  // bytes of a weight in the model's files
  bool reorders = false;         // else it merges
};
[[nodiscard]] RankMemory rewriting_memory(const DecoderConfig& config, const Rewriting& work);

// Bytes that the frozen matrices of a step take more where each is packed for products in both
// directions: another copy of each; of the head two, since the plain one stays. Not those of the experts
// that are computed sparse.
[[nodiscard]] int64_t packed_weights(const DecoderConfig& config, const StepShape& shape);

}  // namespace emoe
