#include "worker/emoe/balanced_kmeans.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "tests/worker/emoe/duality_gap.h"
#include "worker/emoe/balanced_assignment.h"
#include "worker/emoe/cluster_costs.h"
#include "worker/emoe/dot_products.h"

namespace emoe::worker {
namespace {

double normal(int64_t seed, int64_t draw) {  // sum of uniforms: near enough
  double sum = 0.0;
  for (int64_t i = 0; i < 12; ++i) {
    sum += static_cast<double>(partition_random_bits(seed, 1, i, draw) >> 11) * 0x1.0p-53;
  }
  return sum - 6.0;
}

std::vector<float> random_rows(int64_t count, int64_t width, int64_t seed) {
  std::vector<float> rows;
  for (int64_t i = 0; i < count * width; ++i) rows.push_back(static_cast<float>(normal(seed, i)));
  return rows;
}

// `clusters` far centres, rows around them in an order that mixes the clusters.
std::vector<float> planted_rows(int64_t count, int64_t width, int32_t clusters, double noise) {
  const std::vector<float> centres = random_rows(clusters, width, 5);
  std::vector<float> rows;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < width; ++k) {
      rows.push_back(centres[static_cast<size_t>(i % clusters * width + k)] +
                     static_cast<float>(noise * normal(6, i * width + k)));
    }
  }
  return rows;
}

// Adjusted Rand index (Hubert, Arabie 1985) of the labels against i % clusters.
double adjusted_rand_index(const std::vector<int32_t>& labels, int32_t clusters) {
  const auto n = static_cast<size_t>(clusters);
  std::vector<std::vector<double>> table(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < labels.size(); ++i) table[static_cast<size_t>(labels[i])][i % n] += 1.0;
  const auto pairs = [](double x) { return x * (x - 1.0) / 2.0; };
  double index = 0.0;
  double rows = 0.0;
  double columns = 0.0;
  for (size_t a = 0; a < n; ++a) {
    double row = 0.0;
    double column = 0.0;
    for (size_t b = 0; b < n; ++b) {
      index += pairs(table[a][b]);
      row += table[a][b];
      column += table[b][a];
    }
    rows += pairs(row);
    columns += pairs(column);
  }
  const double expected = rows * columns / pairs(static_cast<double>(labels.size()));
  return (index - expected) / ((rows + columns) / 2.0 - expected);
}

void expect_balanced(const std::vector<int32_t>& labels, int32_t clusters) {
  for (int32_t c = 0; c < clusters; ++c) {
    EXPECT_EQ(std::count(labels.begin(), labels.end(), c), std::ssize(labels) / clusters);
  }
}

// By the certificate of duality: no balanced assignment to the clusters' means is cheaper.
void expect_optimal(const std::vector<float>& rows, int64_t width,
                    const std::vector<int32_t>& labels, int32_t clusters) {
  const auto w = static_cast<size_t>(width);
  const auto n = static_cast<size_t>(clusters);
  std::vector<double> means(n * w, 0.0);
  for (size_t i = 0; i < rows.size(); ++i) {
    means[static_cast<size_t>(labels[i / w]) * w + i % w] +=
        rows[i] * static_cast<double>(n) / static_cast<double>(labels.size());
  }
  std::vector<int32_t> costs;
  for (size_t i = 0; i < labels.size(); ++i) {
    for (size_t c = 0; c < n; ++c) {
      double distance = 0.0;
      for (size_t k = 0; k < w; ++k) distance += std::pow(rows[i * w + k] - means[c * w + k], 2);
      costs.push_back(static_cast<int32_t>(std::lround(distance * 0x1.0p18)));
    }
  }
  BalancedAssignment best(std::ssize(labels), clusters);
  best.solve(costs);
  EXPECT_EQ(testing::duality_gap(costs, best.labels(), best.prices()), 0);
  // Rounding: half a unit for each of the two costs that an exchange would compare.
  EXPECT_LE(testing::duality_gap(costs, labels, best.prices()), std::ssize(labels));
}

TEST(BalancedKmeans, finds_planted_clusters) {
  for (const int32_t clusters : {2, 8, 16}) {
    const std::vector<float> rows = planted_rows(480, 20, clusters, 0.1);
    const KmeansResult result = balanced_kmeans(rows, 480, 20, {.clusters = clusters});
    EXPECT_DOUBLE_EQ(adjusted_rand_index(result.labels, clusters), 1.0) << clusters;
    EXPECT_TRUE(result.converged);
    EXPECT_EQ(result.labels[0], 0);  // numbered by first member
  }
}

TEST(BalancedKmeans, sizes_are_exact_where_the_data_is_lopsided) {
  std::vector<float> rows = random_rows(60, 5, 3);
  for (int64_t i = 0; i < 50 * 5; ++i) rows[static_cast<size_t>(i)] *= 0.01F;  // one dense lump
  for (const int32_t clusters : {1, 2, 3, 5, 30, 60}) {
    const KmeansResult result = balanced_kmeans(rows, 60, 5, {.clusters = clusters, .restarts = 3});
    expect_balanced(result.labels, clusters);
    EXPECT_NEAR(result.inertia, inertia_of(rows, 5, result.labels, clusters), 1e-12);
    if (clusters == 60) {
      EXPECT_NEAR(result.inertia, 0.0, 1e-9);
    }
  }
}

TEST(BalancedKmeans, equal_rows_and_rows_of_zeros_are_no_trouble) {
  const std::vector<float> equal(24 * 3, 0.5F);
  expect_balanced(balanced_kmeans(equal, 24, 3, {.clusters = 4}).labels, 4);
  const std::vector<float> zeros(24 * 3, 0.0F);
  expect_balanced(balanced_kmeans(zeros, 24, 3, {.clusters = 12}).labels, 12);
}

TEST(BalancedKmeans, the_last_assignment_is_optimal_for_its_own_means) {
  const std::vector<float> rows = random_rows(96, 7, 11);
  const KmeansResult result = balanced_kmeans(rows, 96, 7, {.clusters = 8});
  ASSERT_TRUE(result.converged);
  expect_optimal(rows, 7, result.labels, 8);
}

// The sizes of real layers: exchanges in the best restart only (up to 4096 rows), or none (above).
class WideLayer : public ::testing::TestWithParam<int64_t> {};

TEST_P(WideLayer, finds_planted_clusters_and_ends_optimal) {
  const int64_t count = GetParam();
  const std::vector<float> rows = planted_rows(count, 8, 20, 0.1);
  const KmeansResult result =
      balanced_kmeans(rows, count, 8, {.clusters = 20, .restarts = 2, .seed = 1});
  EXPECT_TRUE(result.converged);
  expect_balanced(result.labels, 20);
  EXPECT_DOUBLE_EQ(adjusted_rand_index(result.labels, 20), 1.0);
  EXPECT_NEAR(result.inertia, inertia_of(rows, 8, result.labels, 20), 1e-9 * result.inertia);
  expect_optimal(rows, 8, result.labels, 20);
}

TEST_P(WideLayer, ends_optimal_where_the_clusters_overlap) {
  const int64_t count = GetParam();
  const std::vector<float> rows = planted_rows(count, 8, 20, 1.0);
  const KmeansResult result = balanced_kmeans(rows, count, 8, {.clusters = 20, .restarts = 2});
  EXPECT_TRUE(result.converged);
  expect_balanced(result.labels, 20);
  expect_optimal(rows, 8, result.labels, 20);
}

INSTANTIATE_TEST_SUITE_P(Rows, WideLayer, ::testing::Values(2000, 4200));

TEST(BalancedKmeans, depends_on_seed_and_layer_but_not_on_threads) {
  const std::vector<float> rows = random_rows(256, 33, 2);
  const KmeansOptions options{.clusters = 16, .restarts = 2, .seed = 4, .stream = 1};
  const KmeansResult first = balanced_kmeans(rows, 256, 33, options);
  KmeansOptions other = options;
  other.threads = 3;
  EXPECT_EQ(balanced_kmeans(rows, 256, 33, other).labels, first.labels);
  other.threads = 1;
  other.seed = 5;
  EXPECT_NE(balanced_kmeans(rows, 256, 33, other).labels, first.labels);
  other = options;
  other.stream = 2;
  EXPECT_NE(balanced_kmeans(rows, 256, 33, other).labels, first.labels);
}

// Fewer restarts than threads, as many, more; with exchanges and (above 1024 rows) without.
TEST(BalancedKmeans, restarts_side_by_side_give_the_same_result) {
  for (const int64_t count : {160, 1600}) {
    const std::vector<float> rows = random_rows(count, 12, 13);
    KmeansOptions options{.clusters = 16, .restarts = 5};
    const KmeansResult alone = balanced_kmeans(rows, count, 12, options);
    for (const int threads : {2, 3, 5, 16}) {
      options.threads = threads;
      const KmeansResult result = balanced_kmeans(rows, count, 12, options);
      EXPECT_EQ(result.labels, alone.labels) << threads;
      EXPECT_EQ(result.inertia, alone.inertia);
      EXPECT_EQ(result.restart, alone.restart);
      EXPECT_EQ(result.iterations, alone.iterations);
    }
  }
}

TEST(BalancedKmeans, more_restarts_are_never_worse) {
  const std::vector<float> rows = random_rows(128, 16, 9);
  double last = 1e300;
  for (const int32_t restarts : {1, 2, 5, 10}) {
    const KmeansResult result =
        balanced_kmeans(rows, 128, 16, {.clusters = 32, .restarts = restarts});
    EXPECT_LE(result.inertia, last);
    EXPECT_LT(result.restart, restarts);
    last = result.inertia;
  }
}

FloatRows float_rows(int64_t count, int64_t width, int64_t seed) {
  const std::vector<float> values = random_rows(count, width, seed);
  FloatRows rows(count, width);
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(&values[static_cast<size_t>(i * width)], width, rows.row(i));
  }
  return rows;
}

// The documented order, written out.
float product_in_order(const float* a, const float* b, int64_t width) {
  float lanes[16] = {};
  for (int64_t k = 0; k < width; ++k) {
    volatile float product = a[k] * b[k];
    lanes[k % 16] += product;
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// Sizes below, at and above those of a tile and of a block, in rows, columns and width.
TEST(DotProducts, every_block_shape_sums_in_the_same_order) {
  for (const auto& [rows, columns, width] : {std::array<int64_t, 3>{13, 11, 37},
                                             {1, 1, 1},
                                             {6, 4, 16},
                                             {36, 64, 512},
                                             {37, 65, 513},
                                             {79, 131, 1100}}) {
    const FloatRows a = float_rows(rows, width, 8);
    const FloatRows b = float_rows(columns, width, 9);
    std::vector<float> all(static_cast<size_t>(rows * columns));
    dot_products(a, 0, rows, b, all);
    for (int64_t i = 0; i < rows; ++i) {
      std::vector<float> one(static_cast<size_t>(columns));
      dot_products(a, i, i + 1, b, one);  // single rows use the smallest tile
      for (int64_t j = 0; j < columns; ++j) {
        const float expected = product_in_order(a.row(i), b.row(j), width);
        ASSERT_EQ(all[static_cast<size_t>(i * columns + j)], expected) << i << " " << j;
        ASSERT_EQ(one[static_cast<size_t>(j)], expected) << i << " " << j;
      }
    }
  }
}

TEST(DotProducts, squares_and_sums_are_those_of_plain_loops) {
  for (const int64_t count : {1, 7, 8, 19}) {
    const int64_t width = 37;
    const FloatRows rows = float_rows(count, width, 4);
    const std::vector<float> squares = squared_lengths(rows);
    for (int64_t i = 0; i < count; ++i) {
      float square = 0.0F;
      for (int64_t k = 0; k < width; ++k) {
        volatile float product = rows.row(i)[k] * rows.row(i)[k];
        square += product;
      }
      EXPECT_EQ(squares[static_cast<size_t>(i)], square);
    }
    const std::vector<int32_t> which = {static_cast<int32_t>(count - 1), 0};
    FloatRows sum(1, width);
    scaled_sum(rows, which, 0.3F, sum.row(0));
    for (int64_t k = 0; k < width; ++k) {
      const float plain = 0.0F + rows.row(count - 1)[k] + rows.row(0)[k];
      EXPECT_EQ(sum.row(0)[k], plain * 0.3F);
    }
  }
}

// What is kept between iterations is what would be made anew.
TEST(ClusterCosts, only_changed_clusters_are_computed_and_all_are_right) {
  const KmeansRows rows(float_rows(60, 21, 3));
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
  const KmeansRows rows(float_rows(24, 9, 6));
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

}  // namespace
}  // namespace emoe::worker
