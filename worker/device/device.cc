#include "worker/device/device.h"

#include <limits>
#include <stdexcept>
#include <thread>

#include <c10/core/Device.h>
#include <malloc.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "worker/device/cuda/cuda_device.h"

namespace emoe::worker {
namespace {

// "model name	: AMD EPYC 9354 32-Core Processor" of /proc/cpuinfo; "cpu" where it has none.
std::string processor_name() {
  const auto text = read_file("/proc/cpuinfo");
  if (!text.ok()) return "cpu";
  const size_t line = text->find("model name");
  if (line == std::string::npos) return "cpu";
  const size_t begin = text->find(": ", line);
  const size_t end = text->find('\n', line);
  if (begin == std::string::npos || begin > end) return "cpu";
  return text->substr(begin + 2, end - begin - 2);
}

// This rank's GPU, its kernels loaded; std::runtime_error where it cannot be had.
at::Device gpu_of(int local_rank) {
  if (!cuda::built_in()) throw std::runtime_error("this program was built without CUDA");
  const int gpus = cuda::device_count();
  if (gpus == 0) throw std::runtime_error("there is no GPU, or no driver for it");
  cuda::load_kernels();
  return {at::kCUDA, static_cast<at::DeviceIndex>(local_rank % gpus)};
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

DeviceProperties device_properties(at::Device device) {
  if (device.is_cuda()) return cuda::device_properties(device);
  const auto page = static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  return {
      processor_name() + " (" + std::to_string(std::thread::hardware_concurrency()) + " threads)",
      page * sysconf(_SC_PHYS_PAGES), page * sysconf(_SC_AVPHYS_PAGES)};
}

void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

void synchronize(at::Device device) {
  if (device.is_cuda()) cuda::synchronize(device);
}

}  // namespace emoe::worker
