// A part of libemoe_cuda.so: the programs of worker/model/kernels/programs on a GPU. What is not in a program is how
// threads are counted and how a block joins its values; device_kernels_test runs the rest as host code.
#include <cuda_runtime_api.h>

#include "worker/model/kernels/programs/table.h"

namespace emoe::worker {
namespace {

using programs::kThreads;

template <typename Program>
__global__ void __launch_bounds__(kThreads) run_rows(const Program program) {
  using Value = typename Program::Value;
  __shared__ Value lanes[kThreads];
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto thread = static_cast<int>(threadIdx.x);
  Value joined[Program::kStages];
#pragma unroll
  for (int stage = 0; stage < Program::kStages; ++stage) {
    lanes[thread] = program.stage(stage, row, thread, joined);
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (thread < half) lanes[thread] = Program::join(stage, lanes[thread], lanes[thread + half]);
      __syncthreads();
    }
    joined[stage] = lanes[0];
    __syncthreads();  // before the next stage writes
  }
  program.finish(row, thread, joined);
}

template <typename Program>
__global__ void __launch_bounds__(kThreads) run_elements(const Program program, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) program.run(i);
}

struct CudaRunner {
  template <typename Program>
  static const char* rows(const Launch& launch, const Program& program) {
    return put(launch, program.rows(), [&](unsigned blocks, cudaStream_t stream) {
      run_rows<<<blocks, kThreads, 0, stream>>>(program);
    });
  }
  template <typename Program>
  static const char* elements(const Launch& launch, const Program& program) {
    const int64_t count = program.count();
    return put(launch, (count + kThreads - 1) / kThreads,
               [&](unsigned blocks, cudaStream_t stream) {
                 run_elements<<<blocks, kThreads, 0, stream>>>(program, count);
               });
  }

 private:
  template <typename Start>
  static const char* put(const Launch& launch, int64_t blocks, const Start& start) {
    constexpr int64_t kMost = 0x7fffffff;  // blocks of a grid
    if (blocks == 0) return nullptr;
    if (blocks > kMost) return "more blocks than a GPU's grid has";
    cudaError_t error = cudaSetDevice(launch.device);
    if (error == cudaSuccess) {
      start(static_cast<unsigned>(blocks), static_cast<cudaStream_t>(launch.stream));
      error = cudaGetLastError();
    }
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }
};

constexpr DeviceKernels kKernels = programs::kernels_of<CudaRunner>();

}  // namespace
}  // namespace emoe::worker

extern "C" __attribute__((visibility("default"))) const void* emoe_cuda_kernels() {
  return &emoe::worker::kKernels;
}
