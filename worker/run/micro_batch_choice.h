#pragma once

#include <cstdint>

#include "worker/comm/host_group.h"
#include "worker/run/job_plan.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

// Where a training or an evaluation leaves the tokens of a forward pass to the run: sets what
// plan/micro_batch_tokens.h says for a rank on a GPU with this memory. Nothing changes where the job says how many,
// or the memory is not known (0).
void choose_micro_batch(JobPlan& plan, const BaseWeights& base, int64_t device_bytes);
// Then each rank cuts the rows of all: of GPUs of several kinds the smallest decides. Collective.
void agree_on_micro_batch(JobPlan& plan, HostGroup& all);

}  // namespace emoe::worker
