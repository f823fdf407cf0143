#pragma once

#include <filesystem>
#include <string>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// Where a rank computes. "cpu"; "cuda": of this process's GPUs the one with the number `local_rank`
// (two ranks cannot share one: NCCL refuses); "auto": that GPU where the host has any, else the CPU
// (where there is a GPU all the same, `unused_gpu` gets why it is not used). A GPU's kernels are loaded
// when this returns. Throws std::invalid_argument for another name, and for "cuda" where it cannot be
// had, saying why.
[[nodiscard]] at::Device find_device(const std::string& name, int local_rank,
                                     std::string& unused_gpu);

// True where this process may open a GPU of NVIDIA's in the folder of device files, whatever CUDA
// finds of it; false where the user hides them all (CUDA_VISIBLE_DEVICES is empty or -1).
[[nodiscard]] bool has_gpu(const std::filesystem::path& devices = "/dev");

}  // namespace emoe::worker
