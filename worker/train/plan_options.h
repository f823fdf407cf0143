#pragma once

#include "worker/batching/micro_batches.h"
#include "worker/train/batch_plan.h"

namespace emoe::v1 {
class JobSpec;
}

namespace emoe::worker {

// What a resolved spec says about steps and forward passes: for the run, and for whoever foretells it.
[[nodiscard]] BatchPlan::Options batch_plan_of(const v1::JobSpec& spec);
// Of an evaluation, or of training; on a CPU, where the spec leaves the tokens to the run.
[[nodiscard]] MicroBatchOptions micro_batches_of(const v1::JobSpec& spec);

}  // namespace emoe::worker
