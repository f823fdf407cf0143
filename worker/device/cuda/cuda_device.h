#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace emoe::worker::cuda {

// Our own CUDA code is the module libemoe_cuda.so beside the program: NCCL and kernels behind tables of plain
// functions. The program itself needs no library of CUDA's, so one build serves hosts with and without
// GPUs; the module finds them because LibTorch's CUDA part, loaded before it, has brought them.

// How many GPUs the driver offers this process (CUDA_VISIBLE_DEVICES counts); 0 without a driver.
[[nodiscard]] int device_count();

// Bytes of the memory of one of them, in use or not, as the driver says; 0 where it does not.
[[nodiscard]] int64_t total_memory(int gpu);

// Its name ("NVIDIA H200"); empty where the driver says none.
[[nodiscard]] std::string device_name(int gpu);

// Loads LibTorch's CUDA kernels (libtorch_cuda.so beside libtorch_cpu.so) and then the module, for the
// rest of the process. To be called before the process computes anything: what LibTorch once took for a
// process without CUDA stays one. Sets what makes reruns bit-equal (no cuDNN attention, whose backward
// adds in no fixed order; no reduced sums of half precision in products), and that products go through cuBLASLt. std::runtime_error, in the
// loader's words where it is the loader's, if that cannot be had. Idempotent.
void load();

// A table of functions of the module, what its `entry` returns. A program that has the entry linked in
// (a test over stand-ins) uses its own. std::runtime_error where there is no module or it is another
// version's. After load().
[[nodiscard]] const void* table(const char* entry, int version);

// The stream on which LibTorch puts its work for this device at the moment (a cudaStream_t); null, the
// default stream, where no such device is registered.
[[nodiscard]] void* current_stream(at::Device device);

}  // namespace emoe::worker::cuda
