#pragma once

namespace emoe::worker::cuda {

// cuda_device.cc where the CUDA toolkit was there at build time, cuda_stub.cc otherwise.

[[nodiscard]] bool built_in();
// 0 without a driver or GPU.
[[nodiscard]] int device_count();
// Loads LibTorch's CUDA kernels (libtorch_cuda.so beside libtorch_cpu.so). They are not linked: a
// machine without GPUs need not have the 4 GB of libraries they depend on. std::runtime_error with
// the loader's words if they cannot be loaded.
void load_kernels();

}  // namespace emoe::worker::cuda
