#pragma once

#include <memory>

#include "worker/comm/communicator.h"

namespace emoe::worker {

// The ranks of `host` (whose broadcast carries the ncclUniqueId) as an NCCL group, one GPU per
// rank, `device` being this rank's. Collective. All buffers handed to it are memory of that device;
// each call is finished when it returns (it runs on a stream of its own, after what the device's
// default stream held when it was called).
//
// While it waits, a call polls ncclCommGetAsyncError, so that a lost peer is a CommunicationError
// and not a hang; the communicator is then aborted. `host` is used during construction only.
// In a build without CUDA this throws CommunicationError saying so; see nccl_available().
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, int device);

// True when this build has NCCL; whether a GPU is there is another question: nccl_device_count().
[[nodiscard]] bool nccl_available();
[[nodiscard]] int nccl_device_count();  // 0 without CUDA, driver or GPU

}  // namespace emoe::worker
