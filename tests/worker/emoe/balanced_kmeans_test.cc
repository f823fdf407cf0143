#include "worker/emoe/balanced_kmeans.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "tests/worker/emoe/duality_gap.h"
#include "tests/worker/emoe/random_rows.h"
#include "worker/emoe/balanced_assignment.h"

namespace emoe::worker {
namespace {

using testing::planted_rows;
using testing::random_rows;

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

TEST(BalancedKmeans, begins_with_the_rows_it_is_given) {
  const std::vector<float> rows = planted_rows(64, 16, 4, 0.05);
  KmeansOptions options{.clusters = 4, .restarts = 2};
  options.starts = {{0, 1, 2, 3}, {7, 5, 4, 6}};  // one of each cluster
  for (const int32_t most : {1, 100}) {
    options.max_iterations = most;
    const KmeansResult result = balanced_kmeans(rows, 64, 16, options);
    EXPECT_DOUBLE_EQ(adjusted_rand_index(result.labels, 4), 1.0);
    EXPECT_EQ(result.restart, 0);  // both are equally good
  }
}

TEST(BalancedKmeans, tells_of_each_restart_and_stops_when_asked) {
  const std::vector<float> rows = random_rows(128, 8, 3);
  for (const int threads : {1, 3}) {
    std::vector<int32_t> told;
    std::atomic<int64_t> asked = 0;
    KmeansOptions options{.clusters = 8, .restarts = 4, .threads = threads};
    options.on_restart = [&told](const KmeansResult& result) { told.push_back(result.restart); };
    options.stop = [&asked] { return ++asked < 0; };
    EXPECT_FALSE(balanced_kmeans(rows, 128, 8, options).stopped);
    std::ranges::sort(told);
    EXPECT_EQ(told, (std::vector<int32_t>{0, 1, 2, 3}));
    const int64_t all = asked;
    for (int64_t after = 0; after < all - threads; after += 7) {
      asked = 0;
      options.stop = [&asked, after] { return ++asked > after; };
      EXPECT_TRUE(balanced_kmeans(rows, 128, 8, options).stopped) << after << " of " << all;
      EXPECT_LE(asked, after + 2 * threads + 1);
    }
  }
}

// Above 4096 rows costs are estimated, and computed where that matters.
TEST(BalancedKmeans, estimates_change_nothing) {
  for (const int64_t width : {3, 40, 200}) {
    for (const double noise : {0.2, 2.0, 100.0}) {
      const std::vector<float> rows = planted_rows(4104, width, 24, noise);
      KmeansOptions options{.clusters = 24, .restarts = 2, .estimates = false};
      const KmeansResult plain = balanced_kmeans(rows, 4104, width, options);
      options.estimates = true;
      options.threads = 2;
      const KmeansResult result = balanced_kmeans(rows, 4104, width, options);
      EXPECT_EQ(result.labels, plain.labels) << width << " " << noise;
      EXPECT_EQ(result.iterations, plain.iterations);
      EXPECT_TRUE(result.converged);
    }
  }
}

TEST(BalancedKmeans, estimates_change_nothing_where_starts_are_given) {
  std::vector<std::vector<int64_t>> starts(2);
  for (int64_t c = 0; c < 24; ++c) {
    starts[0].push_back(171 * c);
    starts[1].push_back(c == 23 ? 5 : 4103 - c * c);
  }
  for (const double noise : {0.2, 2.0, 100.0}) {
    const std::vector<float> rows = planted_rows(4104, 40, 24, noise);
    KmeansOptions options{.clusters = 24, .restarts = 2, .estimates = false, .starts = starts};
    const KmeansResult plain = balanced_kmeans(rows, 4104, 40, options);
    options.estimates = true;
    for (const int threads : {1, 3}) {
      options.threads = threads;
      const KmeansResult result = balanced_kmeans(rows, 4104, 40, options);
      EXPECT_EQ(result.labels, plain.labels) << noise;
      EXPECT_EQ(result.inertia, plain.inertia);
      EXPECT_EQ(result.restart, plain.restart);
      EXPECT_EQ(result.iterations, plain.iterations);
    }
  }
}

// Members added in their order, then squares in eight sums: the documented order, written out.
TEST(BalancedKmeans, inertia_is_that_of_a_plain_loop_to_the_last_bit) {
  for (const int64_t width : {1, 8, 21}) {
    const std::vector<float> rows = random_rows(30, width, 5);
    std::vector<int32_t> labels;
    for (int32_t i = 0; i < 30; ++i) labels.push_back(i % 7 % 3);
    const auto w = static_cast<size_t>(width);
    std::vector<double> means(3 * w, 0.0);
    std::vector<double> sizes(3, 0.0);
    for (size_t i = 0; i < 30; ++i) {
      const auto c = static_cast<size_t>(labels[i]);
      ++sizes[c];
      for (size_t k = 0; k < w; ++k) means[c * w + k] += static_cast<double>(rows[i * w + k]);
    }
    double lanes[8] = {};
    for (size_t i = 0; i < 30; ++i) {
      const auto c = static_cast<size_t>(labels[i]);
      for (size_t k = 0; k < w; ++k) {
        const double difference =
            static_cast<double>(rows[i * w + k]) - means[c * w + k] / sizes[c];
        lanes[k % 8] += difference * difference;
      }
    }
    double total = 0.0;
    for (const double lane : lanes) total += lane;
    EXPECT_EQ(inertia_of(rows, width, labels, 3), total) << width;
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

}  // namespace
}  // namespace emoe::worker
