#include <array>
#include <optional>
#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/comm/collective_body.h"
#include "tests/worker/comm/loopback_group.h"

namespace emoe::worker {
namespace {

using testing::awkward;

class LoopbackGroup : public ::testing::TestWithParam<int> {};

TEST_P(LoopbackGroup, DoesAllCollectives) {
  testing::run_threads(GetParam(), [](HostGroup& host, DeviceGroup& device) {
    testing::check_host_group(host);
    testing::check_device_group(device);
  });
}

TEST_P(LoopbackGroup, AddsFloatsInRankOrder) {
  at::Tensor expected = awkward(0, 10'007, at::kFloat);
  for (int r = 1; r < GetParam(); ++r) expected += awkward(r, 10'007, at::kFloat);
  testing::run_threads(GetParam(), [&](HostGroup& host, DeviceGroup& device) {
    const at::Tensor sum = awkward(host.rank(), 10'007, at::kFloat);
    device.all_reduce(sum).wait();
    EXPECT_EQ(testing::bytes_of(sum), testing::bytes_of(expected));
  });
}

TEST_P(LoopbackGroup, RoundsSumsOfShortFloatsOnce) {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    at::Tensor exact = awkward(0, 5000, type).to(at::kFloat);
    at::Tensor rounded_each_time = awkward(0, 5000, type);
    for (int r = 1; r < GetParam(); ++r) {
      exact += awkward(r, 5000, type).to(at::kFloat);
      rounded_each_time = (rounded_each_time + awkward(r, 5000, type)).to(type);
    }
    if (GetParam() > 2) {
      EXPECT_FALSE(rounded_each_time.equal(exact.to(type))) << "the case shows nothing";
    }
    testing::run_threads(GetParam(), [&](HostGroup& host, DeviceGroup& device) {
      const at::Tensor sum = awkward(host.rank(), 5000, type);
      device.all_reduce(sum).wait();
      EXPECT_TRUE(sum.equal(exact.to(type)));
    });
  }
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, LoopbackGroup, ::testing::Values(1, 2, 3, 4));

TEST(SingleRank, DoesAllCollectives) {
  const auto host = make_single_rank_group();
  EXPECT_EQ(host->world_size(), 1);
  testing::check_host_group(*host);
  testing::check_device_group(*make_cpu_group(*host));
}

TEST(Loopback, ARankThatLeavesIsAnErrorForTheOthersNotAHang) {
  auto hosts = testing::make_loopback_group(3);
  std::vector<std::string> errors(3);
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < 3; ++r) {
      threads.emplace_back([&, r] {
        auto device = make_cpu_group(*hosts[r]);
        hosts[r]->barrier();
        if (r == 1) {
          device.reset();
          hosts[r].reset();
          return;
        }
        try {
          hosts[r]->barrier();
        } catch (const CommunicationError& error) {
          errors[r] = error.what();
        }
        Work work = device->all_reduce(at::ones({5}));  // the error is wait()'s
        EXPECT_STREQ(hosts[r]->counters()->operation, "");
        EXPECT_THROW(work.wait(), CommunicationError);
        EXPECT_STREQ(hosts[r]->counters()->operation, "all_reduce");
      });
    }
  }
  EXPECT_EQ(errors[0], "barrier: rank 1 has left the group");
  EXPECT_EQ(errors[2], "barrier: rank 1 has left the group");
  EXPECT_EQ(hosts[0]->counters()->started, 3);
  EXPECT_EQ(hosts[0]->counters()->completed, 1);
}

// Those who wait show what they wait in; the one that is missing has started fewer.
TEST(Loopback, TheCountersShowWhoStaysAway) {
  auto hosts = testing::make_loopback_group(3);
  std::vector<std::jthread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] {
      const auto device = make_cpu_group(*hosts[r]);
      const at::Tensor tensor = at::ones({100});
      for (int other = 0; r == 1 && other < 3; other += 2) {
        const CollectiveCounters& theirs = *hosts[other]->counters();
        while (theirs.started == 0) std::this_thread::yield();
        EXPECT_EQ(theirs.completed, 0);
        EXPECT_STREQ(theirs.operation, "all_reduce");
        EXPECT_EQ(hosts[r]->counters()->started, 0);
      }
      device->all_reduce(tensor).wait();
      EXPECT_TRUE(tensor.eq(3.0).all().item<bool>());
    });
  }
}

TEST(Loopback, RanksThatDisagreeAboutTheCollectiveAreTold) {
  std::vector<std::string> errors(2);
  testing::run_threads(2, [&](HostGroup& host, DeviceGroup& device) {
    Work work = device.all_reduce(at::ones({host.rank() == 0 ? 3 : 4}));
    try {
      work.wait();
    } catch (const CommunicationError& error) {
      errors[host.rank()] = error.what();
    }
  });
  EXPECT_EQ(errors[0], "rank 0 is in all_reduce of 12 bytes, rank 1 in all_reduce of 16 bytes");
  EXPECT_EQ(errors[1], "rank 1 is in all_reduce of 16 bytes, rank 0 in all_reduce of 12 bytes");
}

TEST(LoopbackDeathTest, WhatCannotBeSummedOrFitsNotIsABug) {
  const auto host = make_single_rank_group();
  const auto group = make_cpu_group(*host);
  const at::Tensor flags = at::ones({4}, at::kBool);
  const at::Tensor floats = at::ones({4});
  EXPECT_DEATH((void)group->all_reduce(flags), "can_be_summed");
  EXPECT_DEATH((void)group->all_gather(floats, at::ones({5})), "numel");
  EXPECT_DEATH((void)group->all_gather(floats, flags), "scalar_type");
  EXPECT_DEATH((void)group->all_reduce(at::ones({4, 4}).t().narrow(0, 0, 2)), "contiguous");
  EXPECT_DEATH((void)group->broadcast(floats, 1), "root");
}

}  // namespace
}  // namespace emoe::worker
