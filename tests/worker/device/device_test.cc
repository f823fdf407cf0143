#include "worker/device/device.h"

#include <stdexcept>

#include <gtest/gtest.h>

#include "worker/device/cuda/cuda_device.h"

namespace emoe::worker {
namespace {

TEST(Device, CpuIsAlwaysThere) {
  EXPECT_TRUE(find_device("cpu", 3).is_cpu());
}

TEST(Device, OtherNamesAreRefused) {
  for (const char* name : {"", "gpu", "tpu:0", "cudax", "cuda:0"}) {
    EXPECT_THROW((void)find_device(name, 0), std::invalid_argument) << name;
  }
}

TEST(Device, WithoutAGpuAutoIsTheCpuAndCudaIsRefused) {
  if (cuda::device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_TRUE(find_device("auto", 1).is_cpu());
  try {
    (void)find_device("cuda", 0);
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("cuda: ")) << error.what();
  }
}

TEST(Device, EachRankOfAHostHasAGpuOfItsOwn) {
  const int gpus = cuda::device_count();
  if (gpus == 0) GTEST_SKIP() << "this machine has no GPU";
  for (int rank = 0; rank < gpus; ++rank) {
    EXPECT_EQ(find_device("cuda", rank), at::Device(at::kCUDA, rank));
    EXPECT_EQ(find_device("auto", rank), find_device("cuda", rank));
  }
  EXPECT_THROW((void)find_device("cuda", gpus), std::invalid_argument);
}

}  // namespace
}  // namespace emoe::worker
