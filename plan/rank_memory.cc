#include "plan/rank_memory.h"

#include <algorithm>
#include <map>

#include "format/tensor_table.h"
#include "plan/elements.h"

namespace emoe {
namespace {

// Resident in a rank before it makes a tensor, as measured with the LibTorch of cmake/torch.cmake:
// code and libraries that are read, the heap, the threads' stacks; on a GPU its context and kernels.
constexpr int64_t kProgram = int64_t{170} << 20;
constexpr int64_t kCudaProgram = int64_t{600} << 20;
constexpr int64_t kMpi = int64_t{15} << 20;  // on top, where ranks exchange tensors

// On a CPU the allocator keeps up to an eighth of what was in use (worker/device/block_cache.h), where
// most is in use half of that.
constexpr int64_t kKeptPart = 16;

// Of micro-batches with as many tokens the one with most targets, and none that another exceeds in
// both.
std::vector<MicroBatch> largest(const std::vector<MicroBatch>& all) {
  std::map<int64_t, int64_t> targets_of;  // by tokens
  for (const MicroBatch& batch : all) {
    int64_t& targets = targets_of[batch.tokens];
    targets = std::max(targets, batch.targets);
  }
  std::vector<MicroBatch> kept;
  int64_t most = -1;
  for (auto it = targets_of.rbegin(); it != targets_of.rend(); ++it) {
    if (it->second <= most) continue;
    most = it->second;
    kept.push_back({it->first, it->second});
  }
  return kept;
}

// Of a model in fp32.
struct Units {
  int64_t outer = 0;  // embedding, head, final norm
  int64_t layer = 0;  // the largest
};

Units units_of(const DecoderConfig& config) {
  Units units;
  std::map<int64_t, int64_t> layers;
  for (const TensorSpec& spec : TensorTable(config)) {
    (spec.layer < 0 ? units.outer : layers[spec.layer]) += elements_of(spec) * kFp32;
  }
  for (const auto& [index, bytes] : layers) units.layer = std::max(units.layer, bytes);
  return units;
}

// The trained model stays; beside it the check computes with the written one in fp32, of which one layer
// is there at a time, with its embeddings.
int64_t exporting_memory(const DecoderConfig& config, const StepMemory& step) {
  const Units units = units_of(config);
  return step.base + step.trained + units.outer + units.layer;
}

}  // namespace

// How many layers there are at once was measured (tests/plan/plan_and_actual.py, and models of 4 and 8 layers of
// hidden size 1536), as they are stored, with the 16 MiB that are being written: in a merge two, where neurons
// change places three; of halves, which are computed in fp32, up to four, in merges of large layers five.
RankMemory rewriting_memory(const DecoderConfig& config, const Rewriting& work) {
  const Units units = units_of(config);
  const int64_t stored = units.layer / kFp32 * work.stored_value;
  const bool is_halves = work.stored_value < kFp32;
  RankMemory memory;
  memory.program = kProgram;
  memory.step.base = work.adapter_bytes;
  memory.exporting = work.adapter_bytes + 2 * units.outer +
                     stored * (is_halves       ? 4
                               : work.reorders ? 3
                                               : 2);
  return memory;
}

int64_t packed_weights(const DecoderConfig& config, const StepShape& shape) {
  const TensorTable table(config);
  int64_t elements = 2 * elements_of(table.output());
  for (const TensorSpec& spec : table) {
    const bool sparse = shape.sparse && spec.ffn_dim() >= 0 && shape.converted.contains(spec.layer);
    if (linear_index(spec.role) >= 0 && !sparse) elements += elements_of(spec);
  }
  return elements * shape.dtype_bytes;
}

RankMemory rank_memory(const DecoderConfig& config, const RankShape& shape,
                       const std::vector<MicroBatch>& micro_batches,
                       const std::vector<MicroBatch>& evaluated) {
  RankMemory memory;
  memory.program = (shape.cuda ? kCudaProgram : kProgram) + (shape.exchanges ? kMpi : 0);
  StepShape step = shape.step;
  step.cuda = shape.cuda;
  step.tokens = step.targets = 0;
  const auto pass = shape.trains ? step_memory : forward_memory;
  memory.step = pass(config, step);
  for (const MicroBatch& batch : largest(micro_batches)) {
    step.tokens = batch.tokens;
    step.targets = batch.targets;
    const StepMemory needed = pass(config, step);
    if (needed.total() > memory.step.total()) memory.step = needed;
  }
  for (const MicroBatch& batch : largest(evaluated)) {
    step.tokens = batch.tokens;
    step.targets = batch.targets;
    const StepMemory pass_alone = forward_memory(config, step);
    StepMemory beside = memory.step;
    beside.activations = pass_alone.activations;
    beside.workspace = pass_alone.workspace;
    if (beside.total() > memory.step.total()) memory.step = beside;
  }
  memory.step.base += shape.adapter_bytes;
  if (shape.packs) memory.packed = packed_weights(config, shape.step);
  const int64_t state = memory.step.trained + memory.step.optimizer;
  if (shape.cuda) {
    memory.host_program = kProgram + (shape.exchanges ? kMpi : 0);
    // Also where no checkpoint is asked for: who is paused or preempted leaves one. Full tuning's
    // goes through two buffers, each of the largest tensor.
    const int64_t rows = std::max(config.vocab_size, config.intermediate_size);
    memory.host_checkpoint = shape.step.full ? 2 * rows * config.hidden_size * kFp32 : state;
  } else if (shape.copies_state) {
    memory.checkpoint = state;
  }
  if (!shape.cuda)
    memory.kept = (memory.step.total() + memory.packed + memory.checkpoint) / kKeptPart;
  if (shape.exports) memory.exporting = exporting_memory(config, memory.step) + memory.packed;
  return memory;
}

}  // namespace emoe
