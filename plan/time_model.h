#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace emoe {

// What the time of a training run depends on.
struct RunSize {
  double flops_per_rank = 0;  // of all its steps
  double steps = 0;
  double weight_bytes = 0;  // of the model, which is read at the start and written at the end
};

// A run that finished, by the clock.
struct FinishedRun {
  RunSize size;
  double step_seconds = 0;   // in optimiser steps
  double other_seconds = 0;  // before, between and after them: data, weights, evaluation, export
};

struct TimeEstimate {
  double seconds = 0;
  // How far the model is off on the runs that it was learned from: the mean of |estimate - actual| /
  // actual, each run estimated from the others where there are three or more.
  double relative_error = 0;
  int64_t runs = 0;
};

// The time of a run from finished ones of the same machine kind, the newest last. Steps take
// a · steps + b · flops, the rest c + d · weights: a, b, c and d ≥ 0 by least squares of the relative
// errors over the newest kLearnedRuns. Nothing without a finished run: an unknown machine has no
// rates.
inline constexpr int64_t kLearnedRuns = 50;
[[nodiscard]] std::optional<TimeEstimate> estimate_time(const std::vector<FinishedRun>& finished,
                                                        const RunSize& wanted);

// A GPU in place of the processor: "cuda NVIDIA H200", or "cuda" where its name is not known.
[[nodiscard]] std::string gpu_kind(const std::string& name);
[[nodiscard]] bool is_gpu_kind(const std::string& kind);
// The kind of machine that the times of runs are compared on: "AMD EPYC 9454, 2 threads, bfloat16".
[[nodiscard]] std::string machine_kind(const std::string& processor, int threads,
                                       const std::string& dtype);

}  // namespace emoe
