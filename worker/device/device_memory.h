#pragma once

#include <cstdint>
#include <functional>
#include <optional>

// LibTorch's headers and protobuf's never meet, and those who report this see the latter.
namespace c10 {
struct Device;
}

namespace emoe::worker {

// Bytes of a device's memory that this process has through LibTorch's allocator. What CUDA has of its
// own (context, kernels, NCCL's buffers) is beside it.
struct DeviceMemory {
  int64_t allocated = 0;       // of the tensors that live
  int64_t reserved = 0;        // taken of the device, for them and for the next ones
  int64_t peak_allocated = 0;  // the most until now
  int64_t peak_reserved = 0;   // the most until now: what a run needs of the device
};

// Asked for it again and again, by any thread. Null: the rank computes on no device.
using DeviceMemoryReader = std::function<std::optional<DeviceMemory>()>;

// Nothing where the device's allocator counts nothing (a CPU's), or has not begun. Any thread; while
// LibTorch initialises the device, none.
[[nodiscard]] std::optional<DeviceMemory> device_memory(const c10::Device& device);

}  // namespace emoe::worker
