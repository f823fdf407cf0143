#pragma once

#include <filesystem>
#include <functional>

#include "worker/emoe/options.h"
#include "worker/run/job_plan.h"
#include "worker/weights/base_weights.h"

namespace emoe::worker {

// The experts of every converted layer, made from the base's gate_proj rows as the plan says (or
// read from its folder). `cache_dir` may be empty. Throws JobError: 64 for a number of experts or a
// file that does not fit, 65 for bad weights, 75 where `stop` asked for it (see KmeansOptions): layers
// that were done are in `cache_dir`. `on_work_done` is called for each layer, and more often by kmeans.
[[nodiscard]] EmoeOptions make_experts(
    const JobPlan::Emoe& plan, const BaseWeights& base, const std::filesystem::path& cache_dir,
    int threads, const std::function<void()>& on_work_done = [] {},
    const std::function<bool()>& stop = [] { return false; });

// partition/layer_NN.json of every converted layer.
void write_partitions(const EmoeOptions& emoe, const std::filesystem::path& folder);

}  // namespace emoe::worker
