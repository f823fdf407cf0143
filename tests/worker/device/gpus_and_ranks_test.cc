// Ranks and GPUs are counted against each other before anything of CUDA is loaded: over a stand-in for the driver.
#include <stdexcept>
#include <string>

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "worker/device/cuda/cuda_device.h"
#include "worker/device/device.h"

namespace emoe::worker {
namespace {

TEST(GpusAndRanks, MoreRanksThanGpusAreRefused) {
  // By its soname it is what a later dlopen() of the driver finds.
  ASSERT_NE(::dlopen(EMOE_FAKE_DRIVER, RTLD_NOW | RTLD_LOCAL), nullptr) << ::dlerror();
  ASSERT_EQ(cuda::device_count(), 1);
  EXPECT_EQ(cuda::total_memory(0), int64_t{80} << 30);
  EXPECT_EQ(cuda::total_memory(1), 0);
  EXPECT_EQ(cuda::device_name(0), "NVIDIA A100-SXM4-80GB");
  EXPECT_EQ(cuda::device_name(1), "");
  std::string unused_gpu;
  try {
    (void)find_device("cuda", /*local_rank=*/1, unused_gpu);
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "cuda: rank 1 of this host finds no GPU of its own: there are 1, and NCCL allows "
                 "no two ranks on one");
  }
  // With `auto` the rank says so and computes on the CPU; the ranks then find that they differ.
  EXPECT_TRUE(find_device("auto", /*local_rank=*/1, unused_gpu).is_cpu());
  EXPECT_NE(unused_gpu.find("no GPU of its own"), std::string::npos) << unused_gpu;
}

}  // namespace
}  // namespace emoe::worker
