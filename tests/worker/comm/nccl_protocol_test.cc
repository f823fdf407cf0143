// The NCCL group over stand-ins for libcudart and libnccl (fake_gpu.h): its protocol, without a
// GPU.
#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/comm/collective_body.h"
#include "tests/worker/comm/fake_gpu.h"
#include "worker/comm/nccl/nccl_group.h"

namespace emoe::worker {
namespace {

using std::chrono::seconds;
using testing::from_fake_gpu;
using testing::to_fake_gpu;

at::Device gpu_of(const HostGroup& host) {
  return {at::kCUDA, static_cast<at::DeviceIndex>(host.rank())};
}

testing::Memory memory_of(at::Device gpu) {
  return {[gpu](const at::Tensor& tensor) { return to_fake_gpu(tensor, gpu); }, from_fake_gpu};
}

// What wait() throws; "" where it does not.
std::string failure(Work work) {
  try {
    work.wait();
  } catch (const CommunicationError& error) {
    return error.what();
  }
  return "";
}

class NcclProtocol : public ::testing::TestWithParam<int> {
 protected:
  ~NcclProtocol() override {
    testing::tell_peers_of_aborts(false);
    EXPECT_EQ(testing::fake_gpu_objects(), 0) << "streams, events or communicators are left";
  }
};

TEST_P(NcclProtocol, DoesAllCollectives) {
  testing::run_threads(GetParam(), [](HostGroup& host, DeviceGroup&) {
    const at::Device gpu = gpu_of(host);
    const auto nccl = make_nccl_group(host, {.device = gpu.index(), .timeout = seconds(60)});
    EXPECT_EQ(nccl->rank(), host.rank());
    EXPECT_EQ(nccl->world_size(), host.world_size());
    EXPECT_EQ(nccl->counters(), host.counters()) << "one sequence for each rank";
    testing::check_device_group(*nccl, memory_of(gpu));
  });
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, NcclProtocol, ::testing::Values(1, 2, 3, 4));

// Rank 1 leaves without the collective that rank 0 starts; on one host NCCL itself never notices.
TEST_F(NcclProtocol, ARankThatStaysAwayIsAnErrorOfWaitAfterTheTimeLimit) {
  testing::run_threads(2, [](HostGroup& host, DeviceGroup&) {
    const at::Device gpu = gpu_of(host);
    const auto nccl = make_nccl_group(host, {.device = gpu.index(), .timeout = seconds(1)});
    if (host.rank() == 1) return;
    const at::Tensor tensor = to_fake_gpu(at::ones({9}), gpu);
    Work first = nccl->all_reduce(tensor);
    Work second = nccl->broadcast(tensor, 0);
    EXPECT_EQ(failure(std::move(first)),
              "all_reduce: not done after 1 s: another rank is lost or stuck");
    EXPECT_STREQ(host.counters()->operation, "all_reduce");
    EXPECT_EQ(host.counters()->started, host.counters()->completed + 2);
    EXPECT_EQ(failure(std::move(second)), "broadcast: the NCCL group was aborted");
    EXPECT_EQ(failure(nccl->all_reduce(tensor)), "all_reduce: the NCCL group was aborted");
  });
}

// Rank 1 ends by an exception, which aborts its group; between hosts rank 0 hears of it.
TEST_F(NcclProtocol, ALostPeerThatNcclReportsIsAnErrorAtOnce) {
  testing::tell_peers_of_aborts(true);
  testing::run_threads(2, [](HostGroup& host, DeviceGroup&) {
    const at::Device gpu = gpu_of(host);
    try {
      const auto nccl = make_nccl_group(host, {.device = gpu.index(), .timeout = seconds(600)});
      host.barrier();  // both have their group
      if (host.rank() == 1) throw std::runtime_error("out of memory");
      EXPECT_EQ(failure(nccl->all_reduce(to_fake_gpu(at::ones({9}), gpu))),
                "all_reduce: NCCL: remote error (the stand-in)");
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "out of memory");
    }
  });
}

// A rank that never makes its group: the others do not wait for ever.
TEST_F(NcclProtocol, ARankThatDoesNotJoinIsAnErrorAfterTheTimeLimit) {
  testing::run_threads(2, [](HostGroup& host, DeviceGroup&) {
    if (host.rank() == 1) {
      (void)host.broadcast("", 0);  // its part of the start, and no more
      return;
    }
    try {
      (void)make_nccl_group(host, {.device = 0, .timeout = seconds(1)});
      FAIL() << "a group of two with one rank";
    } catch (const CommunicationError& error) {
      EXPECT_STREQ(error.what(),
                   "ncclCommInitRank: not done after 1 s: another rank is lost or stuck");
    }
  });
}

// Dropped without wait(): aborted, not finalised.
TEST_F(NcclProtocol, AGroupWithUnfinishedWorkIsAborted) {
  testing::run_threads(2, [](HostGroup& host, DeviceGroup&) {
    const at::Device gpu = gpu_of(host);
    const at::Tensor tensor = to_fake_gpu(at::ones({9}), gpu);
    const auto nccl = make_nccl_group(host, {.device = gpu.index(), .timeout = seconds(600)});
    (void)nccl->all_reduce(tensor);
    EXPECT_GT(host.counters()->started, host.counters()->completed);
  });
}

}  // namespace
}  // namespace emoe::worker
