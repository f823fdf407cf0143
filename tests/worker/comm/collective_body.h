#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "worker/comm/device_group.h"
#include "worker/comm/host_group.h"

namespace emoe::worker::testing {

// Every collective, checked against what the ranks must get, and the counters; all ranks call it
// together. GoogleTest expectations; safe from several threads.
void check_host_group(HostGroup& group);

// How tensors get to a group's device and back.
struct Memory {
  std::function<at::Tensor(const at::Tensor&)> to_device;
  std::function<at::Tensor(const at::Tensor&)> to_host;
};
[[nodiscard]] Memory host_memory();
// At sizes 0, 1, odd and large, of every type of tensor; several in progress; split.
void check_device_group(DeviceGroup& group, const Memory& memory = host_memory());

// Numbers whose sums depend on the order of addition.
[[nodiscard]] at::Tensor awkward(int rank, int64_t size, at::ScalarType type);
[[nodiscard]] std::string bytes_of(const at::Tensor& tensor);  // contiguous, in host memory

// Ranks as threads, each with a host group over loopback and the group of tensors over that;
// returns when all have.
void run_threads(int world_size, const std::function<void(HostGroup&, DeviceGroup&)>& body);

}  // namespace emoe::worker::testing
