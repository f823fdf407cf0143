#include "worker/device/device.h"

#include <cstdlib>
#include <stdexcept>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "worker/device/cuda/cuda_device.h"

namespace emoe::worker {
namespace {

at::Device find_device(const std::string& name, int local_rank) {
  std::string unused_gpu;
  const at::Device device = worker::find_device(name, local_rank, unused_gpu);
  EXPECT_EQ(unused_gpu, "") << name;
  return device;
}

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

TEST(Device, AGpuThatIsThereIsSeenWithoutCuda) {
  const emoe::testing::TempDir devices;
  const auto add = [&](const char* name) {
    ASSERT_TRUE(write_file_atomically(devices / name, "").ok());
  };
  ASSERT_EQ(::unsetenv("CUDA_VISIBLE_DEVICES"), 0);
  EXPECT_FALSE(has_gpu(devices / "none"));
  for (const char* other : {"nvidia", "nvidiactl", "nvidia-uvm", "null"}) add(other);
  EXPECT_FALSE(has_gpu(devices.path()));
  add("nvidia12");
  EXPECT_TRUE(has_gpu(devices.path()));
  for (const char* hidden : {"", "-1"}) {
    ASSERT_EQ(::setenv("CUDA_VISIBLE_DEVICES", hidden, 1), 0);
    EXPECT_FALSE(has_gpu(devices.path())) << "'" << hidden << "'";
  }
  ASSERT_EQ(::unsetenv("CUDA_VISIBLE_DEVICES"), 0);
}

}  // namespace
}  // namespace emoe::worker
