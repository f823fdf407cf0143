#include "worker/model/device_kernels.h"

#include <array>
#include <optional>
#include <stdexcept>

#include "worker/device/cuda/cuda_device.h"
#include "worker/device/cuda/module_version.h"

namespace emoe::worker {
namespace {

constexpr char kKernelsEntry[] = "emoe_cuda_kernels";

// What tests have put in the place of a kind of device's kernels.
auto& chosen() {
  static std::array<std::optional<const DeviceKernels*>,
                    static_cast<size_t>(c10::COMPILE_TIME_MAX_DEVICE_TYPES)>
      kernels;
  return kernels;
}

const DeviceKernels* cuda_kernels() {
  static const auto* kernels =
      static_cast<const DeviceKernels*>(cuda::table(kKernelsEntry, cuda::kModuleVersion));
  return kernels;
}

}  // namespace

const DeviceKernels* kernels_for(const at::Tensor& x) {
  if (x.is_cpu()) return nullptr;
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kBFloat16) return nullptr;
  const auto& own = chosen()[static_cast<size_t>(x.device().type())];
  if (own) return *own;
  return x.is_cuda() ? cuda_kernels() : nullptr;
}

void use_device_kernels(c10::DeviceType type, const DeviceKernels* kernels) {
  chosen()[static_cast<size_t>(type)] = kernels;
}

Element element_of(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? Element::float32 : Element::bfloat16;
}

Launch launch_on(at::Device device) {
  return {.device = device.has_index() ? device.index() : 0,
          .stream = device.is_cuda() ? cuda::current_stream(device) : nullptr};
}

void throw_kernel_error(const std::string& text) {
  throw std::runtime_error("a kernel of ours: " + text);
}

}  // namespace emoe::worker
