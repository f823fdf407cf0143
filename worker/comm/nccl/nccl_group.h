#pragma once

#include <chrono>
#include <memory>

#include "worker/comm/device_group.h"

namespace emoe::worker {

struct NcclOptions {
  int device = 0;  // this rank's GPU
  // How long one wait() may take before the group is given up.
  std::chrono::seconds timeout{600};
};

// The ranks of `host` (whose broadcast carries the ncclUniqueId) as an NCCL group, one GPU per
// rank. Collective; `host` is used during construction only, its counters are shared.
//
// A collective runs on the group's own stream, after what LibTorch's current stream of the device
// held when it was started. wait() makes the then current stream wait for it, and blocks until it
// is done: meanwhile it polls ncclCommGetAsyncError and the clock. An error of the library (a peer
// on another host is lost), and a collective that is not done after `timeout` (what a lost peer on
// the same host looks like), abort the group and are a CommunicationError. The destructor also
// aborts where a collective is unfinished or an exception unwinds the stack; finalising waits for
// the peers.
//
// For bit-equal reruns NCCL_NVLS_ENABLE=0 is set (unless it is set already): NVLink's switches add
// in no fixed order. NCCL comes out of libemoe_cuda.so: after cuda::load(). In a build without CUDA this
// throws CommunicationError saying so.
[[nodiscard]] std::unique_ptr<DeviceGroup> make_nccl_group(HostGroup& host,
                                                           const NcclOptions& options);

}  // namespace emoe::worker
