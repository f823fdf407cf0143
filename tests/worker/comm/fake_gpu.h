#pragma once

#include <chrono>

#include <ATen/core/Tensor.h>

namespace emoe::worker::testing {

// fake_gpu.cc stands in for libcudart and libnccl, so that the NCCL group's protocol can be tested
// without a GPU: a stream is a queue with a thread, a GPU's memory is host memory, and NCCL's calls
// answer ncclInProgress and are done some polls of ncclCommGetAsyncError later; a call meanwhile is
// ncclInvalidUsage. A collective waits on its stream for the calls of all ranks, or until its
// communicator is aborted.

// Streams, events and communicators that were made and not destroyed.
[[nodiscard]] int fake_gpu_objects();
// Whether an aborted communicator is an error on its peers, as between hosts. At first it is not,
// as on one host: the peers' collectives wait for ever.
void tell_peers_of_aborts(bool yes);

// A tensor that says it is on this GPU, of the same bytes; and back.
[[nodiscard]] at::Tensor to_fake_gpu(const at::Tensor& tensor, at::Device gpu);
[[nodiscard]] at::Tensor from_fake_gpu(const at::Tensor& tensor);

}  // namespace emoe::worker::testing
