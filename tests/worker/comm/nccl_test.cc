// Registered where CUDA is compiled in; skips where there is no GPU. Ranks are threads with a GPU
// each, bootstrapped through the loopback group.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/comm/collective_body.h"
#include "worker/comm/nccl/nccl_group.h"
#include "worker/device/cuda/cuda_device.h"

namespace emoe::worker {
namespace {

void run_on_gpus(int ranks, std::chrono::seconds timeout,
                 const std::function<void(HostGroup&, DeviceGroup&, at::Device)>& body) {
  testing::run_threads(ranks, [&](HostGroup& host, DeviceGroup&) {
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(host.rank()));
    const auto nccl = make_nccl_group(host, {.device = host.rank(), .timeout = timeout});
    body(host, *nccl, device);
  });
}

TEST(Nccl, DoesAllCollectivesOnEveryGpu) {
  for (int ranks = 1; ranks <= std::min(cuda::device_count(), 4); ++ranks) {
    run_on_gpus(ranks, std::chrono::seconds(60),
                [&](HostGroup& host, DeviceGroup& group, at::Device device) {
                  testing::check_device_group(
                      group, {[&](const at::Tensor& tensor) { return tensor.to(device); },
                              [](const at::Tensor& tensor) { return tensor.cpu(); }});
                  EXPECT_EQ(host.counters(), group.counters()) << "one sequence for each rank";
                });
  }
}

TEST(Nccl, ARankThatStaysAwayIsAnErrorOfWait) {
  if (cuda::device_count() < 2) GTEST_SKIP() << "needs two GPUs";
  run_on_gpus(2, std::chrono::seconds(2),
              [&](HostGroup& host, DeviceGroup& group, at::Device device) {
                if (host.rank() == 0) {
                  const at::Tensor tensor = at::ones({100}, at::TensorOptions(device));
                  Work work = group.all_reduce(tensor);
                  EXPECT_THROW(work.wait(), CommunicationError);
                  EXPECT_STREQ(host.counters()->operation, "all_reduce");
                  EXPECT_GT(host.counters()->started, host.counters()->completed);
                  EXPECT_THROW(group.all_reduce(tensor).wait(), CommunicationError);
                }
              });
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (emoe::worker::cuda::device_count() == 0) {
    std::puts("SKIPPED: no GPU (the driver, if there is one, finds none), NCCL cannot run");
    return 77;
  }
  emoe::worker::cuda::load();
  return RUN_ALL_TESTS();
}
