#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "worker/batching/micro_batches.h"
#include "worker/train/batch_plan.h"
#include "worker/train/schedule.h"

namespace emoe::worker {

struct AdamwOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;   // decoupled; tensors of two or more dimensions only
  double max_grad_norm = 1.0;  // 0: no clipping
};

struct CheckpointOptions {
  std::filesystem::path folder;  // "<out>/checkpoints"; empty: no checkpoints, nothing is resumed
  int64_t every_steps = 0;       // 0: only when asked for, and none after the last step
  int64_t keep = 3;              // newest ones
  bool resume = true;            // from the newest valid checkpoint in the folder, if there is one
  // A hash of all that must be equal for a resumed run to make sense: base model, adapter,
  // partitions and every spec key that changes numbers (so not ranks, resources or paths of
  // output).
  std::string fingerprint;
};

// All the step loop needs to know of a job; plain values, no LibTorch.
struct TrainOptions {
  BatchPlan::Options batches;
  LossReduction loss_reduction = LossReduction::token;
  MicroBatchOptions micro_batches;
  AdamwOptions adamw;
  ScheduleKind schedule = ScheduleKind::cosine;
  double learning_rate = 2e-4;
  double warmup_ratio = 0.03;
  int64_t eval_every = 0;  // steps; 0: only before the first and after the last
  CheckpointOptions checkpoint;
  double peak_flops =
      0.0;  // a second, of the device (plan/peak_rates.h); for reports, 0: not known
};

}  // namespace emoe::worker
