#include "worker/device/device.h"

#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include <c10/core/Device.h>
#include <fcntl.h>
#include <unistd.h>

#include "worker/device/cuda/cuda_device.h"

namespace emoe::worker {
namespace {

// This rank's GPU, its kernels loaded; std::runtime_error where it cannot be had.
at::Device gpu_of(int local_rank) {
  const int gpus = cuda::device_count();
  if (gpus == 0) throw std::runtime_error("CUDA finds no GPU, or no driver for it");
  if (local_rank >= gpus) {
    throw std::runtime_error("rank " + std::to_string(local_rank) +
                             " of this host finds no GPU of its own: there are " +
                             std::to_string(gpus) + ", and NCCL allows no two ranks on one");
  }
  cuda::load();
  return {at::kCUDA, static_cast<at::DeviceIndex>(local_rank)};
}

}  // namespace

at::Device find_device(const std::string& name, int local_rank, std::string& unused_gpu) {
  const bool is_auto = name == "auto";
  if (name == "cpu" || (is_auto && cuda::device_count() == 0 && !has_gpu())) return at::kCPU;
  if (name != "cuda" && !is_auto) {
    throw std::invalid_argument("'" + name + "' is no device: auto, cpu or cuda");
  }
  try {
    return gpu_of(local_rank);
  } catch (const std::runtime_error& error) {
    if (!is_auto) throw std::invalid_argument(std::string("cuda: ") + error.what());
    unused_gpu = error.what();
    return at::kCPU;
  }
}

bool has_gpu(const std::filesystem::path& devices) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible != nullptr && (*visible == '\0' || std::string_view(visible) == "-1")) return false;
  std::error_code unreadable;
  for (const auto& entry : std::filesystem::directory_iterator(devices, unreadable)) {
    const std::string name = entry.path().filename();
    constexpr std::string_view kPrefix = "nvidia";  // nvidia0, not nvidiactl
    if (!name.starts_with(kPrefix) || name.size() == kPrefix.size() ||
        name.find_first_not_of("0123456789", kPrefix.size()) != std::string::npos) {
      continue;
    }
    const int file = ::open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    if (file < 0) continue;  // not for this job, by its control group
    ::close(file);
    return true;
  }
  return false;
}

}  // namespace emoe::worker
