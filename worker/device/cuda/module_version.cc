// A part of libemoe_cuda.so.
#include "worker/device/cuda/module_version.h"

extern "C" __attribute__((visibility("default"))) const void* emoe_cuda_module() {
  return &emoe::worker::cuda::kModuleVersion;
}
