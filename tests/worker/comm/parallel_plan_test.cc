#include "worker/comm/parallel_plan.h"

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

using Group = ParallelPlan::Group;

// The ranks of the group that this one is in, ascending.
std::vector<int> members(const ParallelPlan& plan, Group kind, int rank) {
  std::vector<int> ranks;
  for (int other = 0; other < plan.world_size(); ++other) {
    if (plan.group_of(kind, other) == plan.group_of(kind, rank)) ranks.push_back(other);
  }
  return ranks;
}

TEST(ParallelPlan, WithoutDivisionsAllRanksShareTheRows) {
  const ParallelPlan plan = ParallelPlan::make(3).value();
  EXPECT_EQ(plan.data, 3);
  EXPECT_EQ(members(plan, Group::data, 1), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(members(plan, Group::tensor, 1), std::vector<int>{1});
  EXPECT_EQ(members(plan, Group::shard, 1), std::vector<int>{1});
}

TEST(ParallelPlan, EightRanksInTensorPairsAndShardPairs) {
  const ParallelPlan plan = ParallelPlan::make(8, /*tensor=*/2, /*shard=*/2).value();
  EXPECT_EQ(plan.data, 4);
  EXPECT_EQ(members(plan, Group::tensor, 5), (std::vector<int>{4, 5})) << "neighbours";
  EXPECT_EQ(members(plan, Group::data, 5), (std::vector<int>{1, 3, 5, 7}));
  EXPECT_EQ(members(plan, Group::shard, 5), (std::vector<int>{5, 7}));
  EXPECT_EQ(members(plan, Group::shard, 0), (std::vector<int>{0, 2}));
}

TEST(ParallelPlan, EveryRankHasOnePlaceAndOneGroupOfEachKind) {
  for (const auto& [world, tensor, shard] :
       {std::array{1, 1, 1}, {6, 1, 3}, {6, 2, 3}, {6, 6, 1}, {24, 4, 2}, {24, 3, 8}}) {
    const ParallelPlan plan = ParallelPlan::make(world, tensor, shard).value();
    EXPECT_EQ(plan.world_size(), world);
    for (const auto& [kind, size] :
         {std::pair{Group::data, world / tensor}, {Group::tensor, tensor}, {Group::shard, shard}}) {
      std::set<int> groups;
      for (int rank = 0; rank < world; ++rank) {
        const auto mine = members(plan, kind, rank);
        EXPECT_EQ(mine.size(), static_cast<size_t>(size));
        EXPECT_TRUE(std::ranges::count(mine, rank) == 1);
        for (const int member : mine) EXPECT_EQ(members(plan, kind, member), mine);
        groups.insert(plan.group_of(kind, rank));
      }
      EXPECT_EQ(groups.size(), static_cast<size_t>(world / size));
      EXPECT_EQ(*groups.begin(), 0);
      EXPECT_EQ(*groups.rbegin(), world / size - 1);
    }
    for (int rank = 0; rank < world; ++rank) {
      EXPECT_EQ(plan.data_index(rank) * plan.tensor + plan.tensor_index(rank), rank);
      EXPECT_LT(plan.data_index(rank), plan.data);
      EXPECT_LT(plan.tensor_index(rank), plan.tensor);
    }
  }
}

TEST(ParallelPlan, WhatCannotBeDividedIsRefusedWithItsNumbers) {
  const auto message = [](int world, int tensor, int shard) {
    const auto plan = ParallelPlan::make(world, tensor, shard);
    EXPECT_EQ(plan.status().code(), StatusCode::kInvalidArgument);
    return std::string(plan.status().message());
  };
  EXPECT_EQ(message(6, 4, 1),
            "6 ranks cannot be divided into tensor groups of 4 and their data groups into shard "
            "groups of 1");
  for (const auto& [world, tensor, shard] :
       {std::array{6, 2, 2}, {2, 4, 1}, {4, 0, 1}, {0, 1, 1}, {4, 1, 0}, {4, -1, 1}, {4, 1, -1}}) {
    EXPECT_NE(message(world, tensor, shard), "");
  }
}

}  // namespace
}  // namespace emoe::worker
