#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// Where a rank computes.
struct DeviceProperties {
  std::string name;               // "AMD EPYC … (2 threads)", "NVIDIA H200"
  int64_t memory_bytes = 0;       // of the whole device
  int64_t memory_free_bytes = 0;  // at the time of the call
};

// "cpu"; "cuda": of this process's GPUs the one with the number `local_rank` modulo their count;
// "auto": that GPU where there is one, else the CPU (with a warning where there is a GPU that
// cannot be used). A GPU's kernels are loaded when this returns. Throws std::invalid_argument for
// another name, and for "cuda" where it cannot be had, saying why.
[[nodiscard]] at::Device find_device(const std::string& name, int local_rank);

// Throws std::runtime_error when the device cannot be asked.
[[nodiscard]] DeviceProperties device_properties(at::Device device);

// Tells the C library to keep freed memory for the next step instead of giving it back to the
// system with every large tensor: on a CPU the page faults of each step cost more than some of its
// kernels. For the main function of a program that trains; changes nothing else.
void keep_freed_memory();

// Waits until all work queued on the device is done; nothing on a CPU.
void synchronize(at::Device device);

}  // namespace emoe::worker
