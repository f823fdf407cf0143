#include <stdexcept>

#include "worker/device/cuda/cuda_device.h"

namespace emoe::worker::cuda {

bool built_in() {
  return false;
}
int device_count() {
  return 0;
}
void load_kernels() {
  throw std::runtime_error("built without CUDA");
}

}  // namespace emoe::worker::cuda
