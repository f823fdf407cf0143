#pragma once

#include <cstdint>

#include "plan/rank_memory.h"

namespace emoe {

// What two ranks send to each other takes seconds + bytes / bytes_per_second.
struct Link {
  double seconds = 0;
  double bytes_per_second = 0;  // of each rank
};

// The machines of a run, as measured, or as assumed.
struct Cluster {
  double flops_per_second = 0;  // of a rank in a step (TrainingFlops), by what a rank alone reached
  int ranks_per_node = 1;
  Link inside;            // a node
  Link between;           // nodes
  bool overlaps = false;  // gathers run beside the computation (GPUs), else before it (MPI)
};

// A run whose ranks form a grid of data x tensor (see ParallelPlan of the worker).
struct ScaledRun {
  StepShape step;             // tokens of one micro-batch of one rank; shards and tensor
  int ranks = 1;              // divided by step.tensor: those that share the rows
  int64_t micro_batches = 1;  // of each rank, in a step
  double flops = 0;           // of the whole step (TrainingFlops)
};

// Seconds of an optimiser step; the parts follow one another.
struct ScaledTime {
  double compute = 0;
  double exchange = 0;  // the sum of the gradients
  double gathers = 0;   // of shared weights, and in full tuning of their gradients, as far as the
                        // computation does not hide them
  double sums = 0;      // of the parts of each layer

  [[nodiscard]] double total() const { return compute + exchange + gathers + sums; }
};

// Collectives over n ranks, as rings do them: a sum sends 2 (n - 1) / n of its bytes, a gather or a
// scattered sum half of that, each in log2 n messages that wait for one another. Ranks compute alike;
// what the engine does one after another is added (a gradient is exchanged when the backward pass is
// done). Loading, evaluation and checkpoints are left out.
[[nodiscard]] ScaledTime scaled_time(const DecoderConfig& config, const ScaledRun& run,
                                     const Cluster& cluster);

}  // namespace emoe
