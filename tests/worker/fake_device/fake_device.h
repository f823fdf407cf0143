#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace emoe::worker::testing {

// A device that is none: LibTorch's backend PrivateUse1, whose operators are the CPU's, so that everything that the
// worker does off the CPU runs on a machine without a GPU. Its memory cannot be touched by host code (a SIGSEGV that
// names who did), is filled with NaN bytes when handed out, and what goes wrong on a GPU without an error on a CPU is
// counted: operands on two devices, and transfers for which a GPU's host waits. Our own kernels run as host code
// (host_kernels.h), flash attention by its definition. It knows nothing of streams.
//
// Registered with the first call; one device for the whole process.
[[nodiscard]] at::Device fake_device();

struct FakeDeviceLog {
  std::map<std::string, int64_t>
      operators;  // LibTorch's that ran on the device: name.overload, how often
  std::map<std::string, int64_t> kernels;  // ours
  int64_t uploads = 0;                     // copies from the host
  int64_t converted =
      0;  // copies between host and device into another type: the host would convert first
  int64_t pageable =
      0;  // copies that were not to be waited for, and whose memory on the host is not pinned
  int64_t pinned = 0;              // bytes of pinned memory that were in use at once
  int64_t most_uploaded = 0;       // bytes of the largest of them
  int64_t downloads = 0;           // copies to the host, and what reads a result there
  std::vector<std::string> mixes;  // operators with operands of both devices, and which
};
// What was counted since the last call.
[[nodiscard]] FakeDeviceLog take_fake_device_log();

}  // namespace emoe::worker::testing
