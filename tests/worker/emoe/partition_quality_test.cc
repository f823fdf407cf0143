#include "worker/emoe/partition_quality.h"

#include <gtest/gtest.h>

#include "base/counter_random.h"

namespace emoe::worker {
namespace {

// 48 rows around 4 directions, of unequal numbers: 24, 12, 8 and 4.
std::vector<float> uneven_rows(int64_t hidden) {
  std::vector<float> rows;
  for (int64_t i = 0; i < 48; ++i) {
    const int64_t direction = i < 24 ? 0 : i < 36 ? 1 : i < 44 ? 2 : 3;
    for (int64_t c = 0; c < hidden; ++c) {
      const auto noise = random_unit(7, static_cast<uint64_t>(i * hidden + c));
      rows.push_back(static_cast<float>((c == direction ? 1.0 : 0.0) + 0.1 * (noise - 0.5)));
    }
  }
  return rows;
}

TEST(PartitionQuality, BalancedLiesBetweenFreeClustersAndChance) {
  const std::vector<float> rows = uneven_rows(8);
  const PartitionOptions options{.num_experts = 4, .restarts = 3};
  const Partition partition = make_partition(rows, 48, 8, options).value();
  const auto quality = measure_quality(rows, 8, partition, options);
  ASSERT_TRUE(quality.ok()) << quality.status();
  EXPECT_EQ(quality->inertia, partition.inertia);
  EXPECT_LT(quality->unconstrained, 0.5 * quality->inertia) << "balance costs much here";
  EXPECT_LT(quality->inertia, quality->random);
  EXPECT_EQ(quality->smallest, 4);
  EXPECT_EQ(quality->largest, 24);
  EXPECT_GT(quality->share_of_gain(), 0.0);
  EXPECT_LT(quality->share_of_gain(), 1.0);
  // As many clusters as rows of each: nothing is left.
  const PartitionOptions all{.num_experts = 48, .restarts = 1};
  const auto perfect = measure_quality(rows, 8, make_partition(rows, 48, 8, all).value(), all);
  EXPECT_NEAR(perfect->unconstrained, 0.0, 1e-5);
}

TEST(PartitionQuality, CanBeStopped) {
  const std::vector<float> rows = uneven_rows(8);
  PartitionOptions options{.num_experts = 4, .restarts = 1};
  const Partition partition = make_partition(rows, 48, 8, options).value();
  options.stop = [] { return true; };
  EXPECT_TRUE(absl::IsCancelled(measure_quality(rows, 8, partition, options).status()));
}

}  // namespace
}  // namespace emoe::worker
