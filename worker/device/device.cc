#include "worker/device/device.h"

#include <limits>
#include <stdexcept>

#include <c10/core/Device.h>
#include <malloc.h>

#include "base/log.h"
#include "worker/device/cuda/cuda_device.h"

namespace emoe::worker {
namespace {

// This rank's GPU, its kernels loaded; std::runtime_error where it cannot be had.
at::Device gpu_of(int local_rank) {
  if (!cuda::built_in()) throw std::runtime_error("this program was built without CUDA");
  const int gpus = cuda::device_count();
  if (gpus == 0) throw std::runtime_error("there is no GPU, or no driver for it");
  if (local_rank >= gpus) {
    throw std::runtime_error("rank " + std::to_string(local_rank) +
                             " of this host finds no GPU of its own: there are " +
                             std::to_string(gpus));
  }
  cuda::load_kernels();
  return {at::kCUDA, static_cast<at::DeviceIndex>(local_rank)};
}

}  // namespace

at::Device find_device(const std::string& name, int local_rank) {
  if (name == "cpu" || (name == "auto" && cuda::device_count() == 0)) return at::kCPU;
  if (name != "cuda" && name != "auto") {
    throw std::invalid_argument("'" + name + "' is no device: auto, cpu or cuda");
  }
  try {
    return gpu_of(local_rank);
  } catch (const std::runtime_error& error) {
    if (name == "cuda") throw std::invalid_argument(std::string("cuda: ") + error.what());
    log_warning("device auto: computing on the CPU, although there is a GPU: %s", error.what());
    return at::kCPU;
  }
}

void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

}  // namespace emoe::worker
