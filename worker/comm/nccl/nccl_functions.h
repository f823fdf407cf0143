#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "worker/device/cuda/module_version.h"

// The functions of libcudart and libnccl that the NCCL group calls.
#define EMOE_NCCL_FUNCTIONS(of)                                                                   \
  of(cudaGetErrorString) of(cudaSetDevice) of(cudaStreamCreateWithFlags) of(cudaStreamDestroy)    \
      of(cudaEventCreateWithFlags) of(cudaEventDestroy) of(cudaEventRecord) of(cudaEventQuery)    \
          of(cudaStreamWaitEvent) of(ncclGetErrorString) of(ncclGetLastError) of(ncclGetUniqueId) \
              of(ncclCommInitRankConfig) of(ncclCommGetAsyncError) of(ncclCommFinalize)           \
                  of(ncclCommDestroy) of(ncclCommAbort) of(ncclCommSplit) of(ncclCommCount)       \
                      of(ncclCommUserRank) of(ncclAllReduce) of(ncclReduceScatter)                \
                          of(ncclAllGather) of(ncclBroadcast)

namespace emoe::worker {

inline constexpr char kNcclEntry[] = "emoe_cuda_nccl";

// They come out of libemoe_cuda.so: only the module is linked with these libraries.
struct NcclFunctions {
  int version;
// NOLINTNEXTLINE(bugprone-macro-parentheses): a declaration cannot stand in parentheses
#define EMOE_NCCL_FUNCTION(name) decltype(&::name) name;
  EMOE_NCCL_FUNCTIONS(EMOE_NCCL_FUNCTION)
#undef EMOE_NCCL_FUNCTION
};

}  // namespace emoe::worker
