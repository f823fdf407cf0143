#pragma once

#include "server/job/planner.h"

namespace emoe::server {

// Looks for changes with which a job that does not fit would: `fits_with`, the smallest first, or where
// there is none `no_remedy`, which says what was tried. Each is computed as the plan of the changed job
// is, and was let in by the rules about its keys and its model, by data.strict and by the slots there are.
// In this order, and as soon as one of a kind fits no larger one of it:
//   smaller micro-batches, then train.recompute, which change no result;
//   parallel.shard_base, parallel.tensor, more ranks where each has memory of its own (fewer on a host
//   that they share), and these together;
//   model.dtype=bfloat16, then tuning=lora, each alone or with the above;
//   shorter rows, which cut data.
void find_remedies(const PlanInputs& inputs, const Capacity& capacity, v1::MemoryPlan& into);

}  // namespace emoe::server
