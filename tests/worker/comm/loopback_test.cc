#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/worker/comm/collective_body.h"
#include "worker/comm/loopback/loopback_communicator.h"

namespace emoe::worker {
namespace {

class LoopbackGroup : public ::testing::TestWithParam<int> {};

TEST_P(LoopbackGroup, DoesAllCollectives) {
  auto ranks = make_loopback_group(GetParam());
  std::vector<std::jthread> threads;
  for (auto& rank : ranks) {
    threads.emplace_back([&rank] { testing::check_all_collectives(*rank); });
  }
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, LoopbackGroup, ::testing::Values(1, 2, 3, 4));

TEST(Loopback, OneRankAlone) {
  const auto comm = make_loopback();
  EXPECT_EQ(comm->world_size(), 1);
  testing::check_all_collectives(*comm);
}

TEST(Loopback, ARankThatLeavesIsAnErrorForTheOthersNotAHang) {
  auto ranks = make_loopback_group(3);
  std::vector<std::string> errors(3);
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < 3; ++r) {
      threads.emplace_back([&, r] {
        ranks[r]->barrier();
        if (r == 1) {
          ranks[r].reset();
          return;
        }
        try {
          ranks[r]->barrier();
        } catch (const CommunicationError& error) {
          errors[r] = error.what();
        }
      });
    }
  }
  EXPECT_EQ(errors[0], "barrier: rank 1 has left the group");
  EXPECT_EQ(errors[2], "barrier: rank 1 has left the group");
  EXPECT_EQ(ranks[0]->counters().started, 2);
  EXPECT_EQ(ranks[0]->counters().completed, 1);
  EXPECT_STREQ(ranks[0]->counters().operation, "barrier");
}

TEST(Loopback, RanksThatDisagreeAboutTheCollectiveAreTold) {
  auto ranks = make_loopback_group(2);
  std::vector<std::string> errors(2);
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < 2; ++r) {
      threads.emplace_back([&, r] {
        std::vector<double> buffer(r == 0 ? 3 : 4);
        try {
          ranks[r]->all_reduce_sum(std::span<double>(buffer));
        } catch (const CommunicationError& error) {
          errors[r] = error.what();
        }
      });
    }
  }
  EXPECT_EQ(errors[0], "rank 0 is in all_reduce of 24 bytes, rank 1 in all_reduce of 32 bytes");
  EXPECT_EQ(errors[1], "rank 1 is in all_reduce of 32 bytes, rank 0 in all_reduce of 24 bytes");
}

}  // namespace
}  // namespace emoe::worker
