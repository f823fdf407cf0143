#pragma once

#include <chrono>
#include <memory>

#include "worker/comm/communicator.h"

namespace emoe::worker {

struct NcclOptions {
  int device = 0;  // this rank's GPU
  // How long one call may wait for the other ranks before the group is given up.
  std::chrono::seconds timeout{600};
};

// The ranks of `host` (whose broadcast carries the ncclUniqueId) as an NCCL group, one GPU per
// rank. Collective. All buffers handed to it are memory of that device; each call is finished when
// it returns (it runs on a stream of its own, after what the device's default stream held when it
// was called). Its collectives count into host.counters(): one rank, one sequence.
//
// While it waits, a call polls ncclCommGetAsyncError and the clock. An error of the library (a peer
// on another host is lost), and a call that is not done after `timeout` (what a lost peer on the
// same host looks like), abort the communicator and are a CommunicationError. Destroyed after such
// an error, or by an exception on its way up, it is aborted and not finalised, which would wait for
// the peers. `host` is used during construction only.
// In a build without CUDA this throws CommunicationError saying so; see nccl_available().
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host,
                                                                   const NcclOptions& options);

// True when this build has NCCL; whether a GPU is there is another question: nccl_device_count().
[[nodiscard]] bool nccl_available();
[[nodiscard]] int nccl_device_count();  // 0 without CUDA, driver or GPU

}  // namespace emoe::worker
