#include "server/job/time_estimate.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

namespace emoe::server {
namespace {

// As ranks say it (worker/run/job_plan.cc); a merge and a conversion have no such key.
std::string dtype_of(const v1::JobSpec& spec) {
  return spec.model().dtype() == "bfloat16" ? "bfloat16" : "float32";
}

// Where ranks run on other machines, or on a GPU that no preflight has told of, their kinds are known by
// what finished there. `gpu`: its kind, empty where the ranks compute on a processor.
std::string finished_kind(const v1::JobSpec& spec, const std::string& gpu,
                          const Capacity& capacity) {
  if (!capacity.learned_kinds) return "";
  const int threads = spec.resources().threads_per_rank();
  const std::string dtype = dtype_of(spec);
  // ", 2 threads, bfloat16, evaluate" is the end of what machine_kind() writes, and kind_of_run() behind it.
  const std::string end = kind_of_run(
      threads > 0 ? machine_kind("", threads, dtype) : absl::StrCat(", ", dtype), spec.task());
  for (const std::string& kind : capacity.learned_kinds()) {
    if (!kind.ends_with(end) || is_gpu_kind(kind) != !gpu.empty()) continue;
    // Of a GPU whose name is known nothing is learned from another.
    if (gpu.empty() || gpu == gpu_kind("") || kind.starts_with(gpu + ",")) return kind;
  }
  return "";
}

std::string kind_of(const v1::JobSpec& spec, bool on_gpu, const Capacity& capacity) {
  std::string gpu;
  if (on_gpu) gpu = gpu_kind(capacity.known_gpu ? capacity.known_gpu().name : "");
  if (capacity.processor.empty() || gpu == gpu_kind("")) return finished_kind(spec, gpu, capacity);
  const int given = spec.resources().threads_per_rank();
  const int threads = given > 0 ? given : capacity.threads_per_rank;
  const std::string processor = on_gpu ? gpu : capacity.processor;
  return kind_of_run(machine_kind(processor, threads, dtype_of(spec)), spec.task());
}

}  // namespace

std::string kind_of_run(const std::string& machine, const std::string& task) {
  return task == "train" ? machine : absl::StrCat(machine, ", ", task);
}

std::optional<v1::TimePlan> estimate_run_time(const v1::JobSpec& resolved, const RunSize& size,
                                              bool on_gpu, const Capacity& capacity) {
  if (!capacity.finished_runs) return std::nullopt;
  const std::string kind = kind_of(resolved, on_gpu, capacity);
  if (kind.empty()) return std::nullopt;
  const auto estimate = estimate_time(capacity.finished_runs(kind), size);
  if (!estimate) return std::nullopt;
  v1::TimePlan time;
  time.set_seconds(estimate->seconds);
  time.set_relative_error(estimate->relative_error);
  time.set_learned_from(static_cast<int32_t>(estimate->runs));
  time.set_machine(kind);
  return time;
}

}  // namespace emoe::server
