#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "worker/report/preflight_record.h"

namespace emoe::worker {

// What a preflight finds on this host without other ranks: memory, /dev/shm, limits, versions, GPUs where
// NVIDIA's management library is there. `gpu`: the number of this rank's, -1: it computes on the CPU.
[[nodiscard]] std::vector<PreflightRow> host_facts(int gpu);

// Writes and syncs a file in the folder, and removes it: how fast that is, or why it cannot be.
[[nodiscard]] std::vector<PreflightRow> disk_facts(const std::filesystem::path& folder);

// "NVIDIA H200": what NVML calls the GPU that CUDA counts with this number; empty where it is not known.
[[nodiscard]] std::string gpu_name(int gpu);

// Of the GPU with this number as NVML tells: driver, memory, errors, clock. Empty where the library (or the
// GPU) is not there.
[[nodiscard]] std::vector<PreflightRow> gpu_facts(int gpu,
                                                  const char* library = "libnvidia-ml.so.1");

}  // namespace emoe::worker
