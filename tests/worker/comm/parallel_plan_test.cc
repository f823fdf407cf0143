#include "worker/comm/parallel_plan.h"

#include <algorithm>
#include <array>
#include <set>

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

using Group = ParallelPlan::Group;

TEST(ParallelPlan, WithoutDivisionsAllRanksShareTheRows) {
  const ParallelPlan plan = ParallelPlan::make(3).value();
  EXPECT_EQ(plan.data, 3);
  EXPECT_EQ(plan.members(Group::data, 1), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(plan.members(Group::tensor, 1), std::vector<int>{1});
  EXPECT_EQ(plan.members(Group::shard, 1), std::vector<int>{1});
}

TEST(ParallelPlan, EightRanksInTensorPairsAndShardPairs) {
  const ParallelPlan plan = ParallelPlan::make(8, /*tensor=*/2, /*shard=*/2).value();
  EXPECT_EQ(plan.data, 4);
  EXPECT_EQ(plan.members(Group::tensor, 5), (std::vector<int>{4, 5})) << "neighbours";
  EXPECT_EQ(plan.members(Group::data, 5), (std::vector<int>{1, 3, 5, 7}));
  EXPECT_EQ(plan.members(Group::shard, 5), (std::vector<int>{5, 7}));
  EXPECT_EQ(plan.members(Group::shard, 0), (std::vector<int>{0, 2}));
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
        const auto members = plan.members(kind, rank);
        EXPECT_EQ(members.size(), static_cast<size_t>(size));
        EXPECT_TRUE(std::ranges::count(members, rank) == 1);
        for (const int member : members) EXPECT_EQ(plan.members(kind, member), members);
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
