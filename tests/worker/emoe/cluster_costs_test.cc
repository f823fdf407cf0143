#include "worker/emoe/cluster_costs.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "tests/worker/emoe/duality_gap.h"
#include "tests/worker/emoe/random_rows.h"
#include "worker/emoe/balanced_assignment.h"

namespace emoe::worker {
namespace {

using testing::float_rows;

// What is kept between iterations is what would be made anew.
TEST(ClusterCosts, only_changed_clusters_are_computed_and_all_are_right) {
  const KmeansRows rows(float_rows(60, 21, 3), false, 1);
  std::vector<int32_t> labels(60);
  for (size_t i = 0; i < 60; ++i) labels[i] = static_cast<int32_t>(i % 6);
  ClusterCosts kept(rows, 6, 2);
  kept.move_to(labels);
  for (size_t swap = 0; swap < 8; ++swap) {
    std::swap(labels[swap], labels[3 * swap + 7]);
    kept.move_to(labels);
    ClusterCosts fresh(rows, 6, 1);
    fresh.move_to(labels);
    EXPECT_TRUE(std::ranges::equal(kept.values(), fresh.values())) << swap;
  }
}

TEST(ClusterCosts, a_start_from_rows_is_the_same_as_from_their_products) {
  const KmeansRows rows(float_rows(24, 9, 6), false, 1);
  const std::vector<int64_t> centres = {5, 0, 23};
  FloatRows picked(3, 9);
  for (int64_t c = 0; c < 3; ++c) {
    std::copy_n(rows.rows.row(centres[static_cast<size_t>(c)]), 9, picked.row(c));
  }
  std::vector<float> dots(24 * 3);
  dot_products(rows.rows, 0, 24, picked, dots);
  ClusterCosts costs(rows, 3, 1);
  costs.start_from(centres, dots);
  for (size_t c = 0; c < 3; ++c) {  // a centre is nearest to itself: cost −|x|²
    const float square = rows.squares[static_cast<size_t>(centres[c])];
    const int32_t own = costs.values()[static_cast<size_t>(centres[c]) * 3 + c];
    EXPECT_NEAR(own, -square * rows.scale, 1e-5 * square * rows.scale);
  }
}

// A balanced partition at random.
std::vector<int32_t> shuffled_labels(int64_t count, int32_t clusters, int64_t seed) {
  std::vector<int32_t> labels(static_cast<size_t>(count));
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<int32_t>(i) % clusters;
  for (size_t i = labels.size() - 1; i > 0; --i) {
    std::swap(labels[i],
              labels[partition_random_bits(seed, 7, 0, static_cast<int64_t>(i)) % (i + 1)]);
  }
  return labels;
}

// k-means by hand: costs estimated and settled, against all costs computed. After every solve the
// prices must prove the assignment optimal for the computed costs.
void expect_settled_is_optimal(const std::vector<float>& values, int64_t width, int32_t clusters) {
  const KmeansRows with_bytes(float_rows(values, width), true, 2);
  const KmeansRows without(float_rows(values, width), false, 1);
  const int64_t count = with_bytes.rows.rows();
  ClusterCosts estimated(with_bytes, clusters, 2);
  ClusterCosts computed(without, clusters, 1);
  BalancedAssignment assignment(count, clusters);
  std::vector<int32_t> labels = shuffled_labels(count, clusters, width);
  for (int iteration = 0; iteration < 6; ++iteration) {
    estimated.move_to(labels);
    computed.move_to(labels);
    int rounds = 0;
    do {
      assignment.solve(estimated.values());
      ASSERT_LT(++rounds, 100);
    } while (estimated.settle(assignment.labels(), assignment.prices()) > 0);
    EXPECT_EQ(testing::duality_gap(computed.values(), assignment.labels(), assignment.prices()), 0);
    EXPECT_EQ(estimated.difference(assignment.labels(), labels),
              total_cost(computed.values(), assignment.labels(), clusters) -
                  total_cost(computed.values(), labels, clusters));
    labels = assignment.labels();
  }
}

TEST(ClusterCosts, what_is_settled_on_estimates_is_optimal_for_the_costs) {
  for (const int32_t clusters : {1, 2, 5, 30, 60}) {
    for (const int64_t width : {1, 4, 33, 300}) {
      expect_settled_is_optimal(testing::random_rows(120, width, clusters), width, clusters);
      expect_settled_is_optimal(testing::planted_rows(120, width, clusters, 0.3), width, clusters);
    }
  }
}

TEST(ClusterCosts, estimates_that_say_nothing_are_no_trouble) {
  std::vector<float> rows = testing::random_rows(120, 20, 4);
  for (size_t i = 0; i < 120; ++i) rows[i * 20 + i % 20] = 500.0F;  // all else rounds to nothing
  expect_settled_is_optimal(rows, 20, 6);
  for (size_t i = 0; i < 60 * 20; ++i) rows[i] = 0.0F;  // half are zeros
  expect_settled_is_optimal(rows, 20, 6);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = rows[i % 20];  // all equal
  expect_settled_is_optimal(rows, 20, 6);
  for (float& value : rows) value *= 1e15F;  // huge norms
  expect_settled_is_optimal(rows, 20, 6);
  expect_settled_is_optimal(std::vector<float>(120 * 20, 0.0F), 20, 6);
}

}  // namespace
}  // namespace emoe::worker
