#pragma once

#include <cstdint>
#include <optional>

#include "plan/rank_memory.h"
#include "server/job/planner.h"
#include "server/job/work_estimate.h"

namespace emoe::server {

// Bytes of a value of model.dtype.
[[nodiscard]] int64_t dtype_bytes(const std::string& dtype);

// Whether so many ranks that take `rank_bytes` each fit into `available` bytes together; 0: not known, and
// nothing is refused by it.
[[nodiscard]] bool fits_into(int64_t rank_bytes, int ranks, int64_t available);

// The memory of a job's ranks, and of a training or an evaluation its work. `spec` may differ from that
// of `inputs` (what a change of it would take). All outlive it.
class PlannedRun {
 public:
  // `work`: instead of an estimate.
  PlannedRun(const v1::JobSpec& spec, const PlanInputs& inputs, const Capacity& capacity,
             std::optional<WorkEstimate> work = std::nullopt);

  // Nothing is known of other tasks, nor of a training that makes no step.
  [[nodiscard]] bool possible() const { return works_ ? work_.has_value() : rewrites_; }
  // Of a training or an evaluation.
  [[nodiscard]] const std::optional<WorkEstimate>& work() const { return work_; }
  [[nodiscard]] const RankMemory& memory() const { return memory_; }
  [[nodiscard]] bool on_gpu() const { return on_gpu_; }
  [[nodiscard]] const GpuType& gpu() const { return gpu_; }
  [[nodiscard]] int64_t trained_elements() const { return memory_.step.trained / kFp32; }

  // Ranks that share `available`.
  [[nodiscard]] int sharing() const;
  // Bytes of a host or a GPU; 0: not known.
  [[nodiscard]] int64_t available() const;
  // Of a run on GPUs: what its ranks on one host take of the host's memory. Else 0.
  [[nodiscard]] int64_t host_bytes() const { return host_bytes(memory_); }
  [[nodiscard]] bool fits() const { return fits(memory_); }

  // Tokens; 0: nothing is computed in micro-batches.
  [[nodiscard]] int64_t largest_micro_batch() const;
  // Up to which train.micro_batch_tokens the job fits, its evaluations included, with as many targets among
  // them as the micro-batch with most has; in steps of 64. 0: none, or `available` is not known.
  [[nodiscard]] int64_t fitting_tokens() const;
  // With micro-batches of a single row, the most that smaller ones can do.
  [[nodiscard]] bool could_fit() const { return fits_in_passes_of(1); }

 private:
  [[nodiscard]] bool fits(const RankMemory& memory) const;
  [[nodiscard]] int64_t host_bytes(const RankMemory& memory) const;
  // Of these passes and those of the suite, where there is one, which are cut by `tokens` of a micro-batch.
  [[nodiscard]] RankMemory memory_of(std::vector<MicroBatch> passes,
                                     std::vector<MicroBatch> evaluated, int64_t tokens) const;
  // With micro-batches of so many tokens, or of a row that is longer.
  [[nodiscard]] bool fits_in_passes_of(int64_t tokens) const;

  const v1::JobSpec& spec_;
  const DecoderConfig& model_;
  const Capacity& capacity_;
  const bool works_;     // it trains or evaluates
  const bool rewrites_;  // it merges or converts
  const bool on_gpu_;
  const GpuType gpu_;
  const RankShape shape_;
  const v1::JobSpec chosen_;  // with the micro-batch that the ranks will choose
  const std::optional<WorkEstimate> work_;
  RankMemory memory_;
};

}  // namespace emoe::server
