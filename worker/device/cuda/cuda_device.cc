#include "worker/device/cuda/cuda_device.h"

#include <stdexcept>

#include <cuda_runtime_api.h>
#include <dlfcn.h>

namespace emoe::worker::cuda {
namespace {

void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) {
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(code));
  }
}

void select(at::Device device) {
  check(cudaSetDevice(device.has_index() ? device.index() : 0), "cudaSetDevice");
}

}  // namespace

bool built_in() {
  return true;
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void load_kernels() {
  // Never closed: kernels stay registered for the life of the process.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("LibTorch's CUDA kernels cannot be loaded: ") + dlerror());
  }
}

DeviceProperties device_properties(at::Device device) {
  select(device);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device.has_index() ? device.index() : 0),
        "cudaGetDeviceProperties");
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return {properties.name, static_cast<int64_t>(total_bytes), static_cast<int64_t>(free_bytes)};
}

void synchronize(at::Device device) {
  select(device);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

}  // namespace emoe::worker::cuda
