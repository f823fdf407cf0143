#include "worker/device/device.h"

#include <limits>
#include <stdexcept>
#include <thread>

#include <c10/core/Device.h>
#include <malloc.h>
#include <unistd.h>

#include "base/file.h"
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

}  // namespace

at::Device find_device(const std::string& name, int local_rank) {
  if (name == "cpu") return at::kCPU;
  if (name == "auto") {
    const int gpus = cuda::device_count();
    if (gpus == 0) return at::kCPU;
    cuda::load_kernels();
    return {at::kCUDA, static_cast<at::DeviceIndex>(local_rank % gpus)};
  }
  if (name != "cuda" && !name.starts_with("cuda:")) {
    throw std::invalid_argument("'" + name + "' is no device: auto, cpu, cuda or cuda:N");
  }
  if (!cuda::built_in()) throw std::runtime_error("device '" + name + "': built without CUDA");
  const at::Device device(name);
  if ((device.has_index() ? device.index() : 0) >= cuda::device_count()) {
    throw std::runtime_error("device '" + name + "': no such GPU, " +
                             std::to_string(cuda::device_count()) + " found");
  }
  cuda::load_kernels();
  return device;
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
