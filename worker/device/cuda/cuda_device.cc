#include "worker/device/cuda/cuda_device.h"

#include <stdexcept>
#include <string>

#include <cuda_runtime_api.h>
#include <dlfcn.h>

namespace emoe::worker::cuda {

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

}  // namespace emoe::worker::cuda
