// libemoe_cuda.so as a GPU host loads it, behind LibTorch's CUDA part; without a GPU its functions say so.
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "worker/comm/nccl/nccl_functions.h"
#include "worker/device/cuda/cuda_device.h"
#include "worker/model/device_kernels.h"

namespace emoe::worker {
namespace {

// Why LibTorch's CUDA part cannot be loaded (the machine lacks libraries of it); empty: it was.
std::string load_error() {
  static const std::string error = [] {
    try {
      cuda::load();
      return std::string();
    } catch (const std::runtime_error& failure) {
      return std::string(failure.what());
    }
  }();
  return error;
}

class CudaModule : public ::testing::Test {
 protected:
  void SetUp() override {
    if (load_error().starts_with("LibTorch's CUDA kernels cannot be loaded")) {
      GTEST_SKIP() << load_error();
    }
    ASSERT_EQ(load_error(), "");
  }
};

TEST_F(CudaModule, FindsItsLibrariesBehindLibTorch) {
  const auto& nccl =
      *static_cast<const NcclFunctions*>(cuda::table(kNcclEntry, cuda::kModuleVersion));
  EXPECT_STREQ(nccl.ncclGetErrorString(ncclSuccess), "no error");
  if (cuda::device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_NE(nccl.cudaSetDevice(0), cudaSuccess);
}

TEST_F(CudaModule, HasEveryKernelAndSaysWhereItCannotRun) {
  const auto& kernels =
      *static_cast<const DeviceKernels*>(cuda::table("emoe_cuda_kernels", cuda::kModuleVersion));
  for (const void* kernel :
       {reinterpret_cast<const void*>(kernels.rms_norm),
        reinterpret_cast<const void*>(kernels.rms_norm_backward),
        reinterpret_cast<const void*>(kernels.rotary),
        reinterpret_cast<const void*>(kernels.swiglu),
        reinterpret_cast<const void*>(kernels.swiglu_backward),
        reinterpret_cast<const void*>(kernels.dropout),
        reinterpret_cast<const void*>(kernels.choice),
        reinterpret_cast<const void*>(kernels.losses), reinterpret_cast<const void*>(kernels.adamw),
        reinterpret_cast<const void*>(kernels.squares)}) {
    EXPECT_NE(kernel, nullptr);
  }
  if (cuda::device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  const char* error = kernels.choice({}, {.tokens = 1, .experts = 1, .top_k = 1});
  ASSERT_NE(error, nullptr);
  EXPECT_NE(std::string(error), "");
  // Nothing to do needs no GPU.
  EXPECT_EQ(kernels.choice({}, {.tokens = 0, .experts = 1, .top_k = 1}), nullptr);
}

TEST_F(CudaModule, AnotherVersionIsRefused) {
  EXPECT_THROW((void)cuda::table(kNcclEntry, cuda::kModuleVersion + 1), std::runtime_error);
  EXPECT_THROW((void)cuda::table("emoe_cuda_nothing", cuda::kModuleVersion), std::runtime_error);
}

}  // namespace
}  // namespace emoe::worker
