#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "worker/model/kernels/device_kernels.h"

namespace emoe::worker {

// The kernels of the device that has x, for elements of x's type; null on a CPU (which has RowKernels),
// for other types than fp32 and bf16, and where there are none: then LibTorch's operators compute. A
// GPU's come out of libemoe_cuda.so, loaded before (cuda::load()).
[[nodiscard]] const DeviceKernels* kernels_for(const at::Tensor& x);

// Gives a kind of device these kernels from now on, or with null none. For tests, before threads begin.
void use_device_kernels(c10::DeviceType type, const DeviceKernels* kernels);

[[nodiscard]] Element element_of(const at::Tensor& x);

[[nodiscard]] Launch launch_on(at::Device device);
[[noreturn]] void throw_kernel_error(const std::string& text);

// Puts a kernel on the current stream of x's device. Throws std::runtime_error where it cannot be started.
template <typename Call>
void run_kernel(const at::Tensor& x, const char* (*kernel)(const Launch&, const Call&),
                const Call& call) {
  const char* error = kernel(launch_on(x.device()), call);
  if (error != nullptr) throw_kernel_error(error);
}

}  // namespace emoe::worker
