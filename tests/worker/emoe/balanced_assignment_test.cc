#include "worker/emoe/balanced_assignment.h"

#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

#include "tests/worker/emoe/duality_gap.h"
#include "worker/emoe/balanced_kmeans.h"

namespace emoe::worker {
namespace {

struct Problem {
  int64_t items;
  int32_t clusters;
  std::vector<int32_t> costs;
};

Problem random_problem(int64_t items, int32_t clusters, int32_t range, int64_t seed) {
  Problem problem{items, clusters, {}};
  for (int64_t i = 0; i < items * clusters; ++i) {
    const auto bits = partition_random_bits(seed, 0, 0, i) % static_cast<uint64_t>(2 * range + 1);
    problem.costs.push_back(static_cast<int32_t>(bits) - range);
  }
  return problem;
}

// Minimum over all balanced assignments, by trying every one.
int64_t brute_force(const Problem& problem, int64_t item, std::vector<int64_t>& room) {
  if (item == problem.items) return 0;
  int64_t best = std::numeric_limits<int64_t>::max() / 2;
  for (int32_t c = 0; c < problem.clusters; ++c) {
    if (room[static_cast<size_t>(c)] == 0) continue;
    --room[static_cast<size_t>(c)];
    best = std::min(best, problem.costs[static_cast<size_t>(item * problem.clusters + c)] +
                              brute_force(problem, item + 1, room));
    ++room[static_cast<size_t>(c)];
  }
  return best;
}

// The Hungarian method (Kuhn, Munkres) on the square problem in which each cluster stands E times:
// another algorithm with the same optimum, fast enough for some hundred items.
int64_t hungarian(const Problem& problem) {
  const auto n = static_cast<size_t>(problem.items);
  const size_t size = n / static_cast<size_t>(problem.clusters);
  const int64_t far = std::numeric_limits<int64_t>::max() / 4;
  std::vector<int64_t> u(n + 1, 0);
  std::vector<int64_t> v(n + 1, 0);
  std::vector<size_t> match(n + 1, 0);
  std::vector<size_t> way(n + 1, 0);
  for (size_t i = 1; i <= n; ++i) {
    match[0] = i;
    size_t column = 0;
    std::vector<int64_t> slack(n + 1, far);
    std::vector<bool> used(n + 1, false);
    do {
      used[column] = true;
      const size_t row = match[column];
      int64_t delta = far;
      size_t next = 0;
      for (size_t j = 1; j <= n; ++j) {
        if (used[j]) continue;
        const size_t cluster = (j - 1) / size;
        const int64_t reduced =
            problem.costs[(row - 1) * static_cast<size_t>(problem.clusters) + cluster] - u[row] -
            v[j];
        if (reduced < slack[j]) {
          slack[j] = reduced;
          way[j] = column;
        }
        if (slack[j] < delta) {
          delta = slack[j];
          next = j;
        }
      }
      for (size_t j = 0; j <= n; ++j) {
        if (used[j]) {
          u[match[j]] += delta;
          v[j] -= delta;
        } else {
          slack[j] -= delta;
        }
      }
      column = next;
    } while (match[column] != 0);
    for (; column != 0; column = way[column]) match[column] = match[way[column]];
  }
  return -v[0];
}

void expect_balanced(const Problem& problem, const std::vector<int32_t>& labels) {
  for (int32_t c = 0; c < problem.clusters; ++c) {
    EXPECT_EQ(std::count(labels.begin(), labels.end(), c), problem.items / problem.clusters);
  }
}

int64_t solved_cost(const Problem& problem, BalancedAssignment& assignment) {
  assignment.solve(problem.costs);
  expect_balanced(problem, assignment.labels());
  EXPECT_EQ(testing::duality_gap(problem.costs, assignment.labels(), assignment.prices()), 0);
  return total_cost(problem.costs, assignment.labels(), problem.clusters);
}

int64_t solved_cost(const Problem& problem) {
  BalancedAssignment assignment(problem.items, problem.clusters);
  return solved_cost(problem, assignment);
}

// Of many items at once and of one, prices close to each other and not, with and without ties.
TEST(PriceScan, two_cheapest_are_those_of_a_plain_search) {
  for (const int32_t clusters : {1, 2, 15, 16, 17, 64, 100}) {
    for (const int32_t range : {1, 1'000'000'000}) {
      for (const int64_t spread : {int64_t{1}, int64_t{1} << 29, int64_t{1} << 40}) {
        const Problem problem = random_problem(9, clusters, range, clusters);
        std::vector<int64_t> prices;
        for (int32_t c = 0; c < clusters; ++c) {
          const auto bits = partition_random_bits(spread, 1, 0, c);
          prices.push_back(static_cast<int64_t>(bits % static_cast<uint64_t>(spread + 1)) - 7);
        }
        std::vector<TwoCheapest> all(9);
        two_cheapest(problem.costs, prices, all);
        for (size_t i = 0; i < 9; ++i) {
          const std::span<const int32_t> costs =
              std::span(problem.costs).subspan(i * prices.size(), prices.size());
          TwoCheapest plain;
          for (int32_t c = 0; c < clusters; ++c) {
            plain.offer(c, costs[static_cast<size_t>(c)] + prices[static_cast<size_t>(c)]);
          }
          TwoCheapest one;
          two_cheapest(costs, prices, {&one, 1});
          for (const TwoCheapest& best : {all[i], one}) {
            EXPECT_EQ(best.first, plain.first) << clusters << " " << range << " " << spread;
            EXPECT_EQ(best.first_cost, plain.first_cost);
            EXPECT_EQ(best.second, plain.second);
            EXPECT_EQ(best.second_cost, plain.second_cost);
          }
        }
      }
    }
  }
}

TEST(BalancedAssignment, equals_the_best_of_all_assignments) {
  for (const auto& [items, clusters] :
       {std::pair{1, 1}, {6, 1}, {6, 6}, {8, 2}, {8, 4}, {9, 3}, {10, 5}}) {
    for (int64_t seed = 0; seed < 20; ++seed) {
      for (const int32_t range : {1, 3, 1'000'000'000}) {  // small ranges: many ties
        const Problem problem = random_problem(items, clusters, range, seed);
        std::vector<int64_t> room(static_cast<size_t>(clusters), items / clusters);
        EXPECT_EQ(solved_cost(problem), brute_force(problem, 0, room))
            << items << " x " << clusters << " seed " << seed << " range " << range;
      }
    }
  }
}

TEST(BalancedAssignment, equals_the_hungarian_method) {
  for (const auto& [items, clusters] : {std::pair{60, 4}, {60, 20}, {120, 8}, {86, 43}, {90, 90}}) {
    for (const int32_t range : {2, 50, 1'000'000'000}) {
      const Problem problem = random_problem(items, clusters, range, items + range);
      EXPECT_EQ(solved_cost(problem), hungarian(problem)) << items << " x " << clusters;
    }
  }
}

TEST(BalancedAssignment, a_hard_case_where_all_want_the_same_cluster) {
  Problem problem = random_problem(200, 10, 1000, 7);
  for (int64_t i = 0; i < 200; ++i) problem.costs[static_cast<size_t>(i * 10 + 3)] -= 100'000;
  EXPECT_EQ(solved_cost(problem), hungarian(problem));
  std::fill(problem.costs.begin(), problem.costs.end(), 5);  // nothing to choose between
  EXPECT_EQ(solved_cost(problem), 1000);
}

TEST(BalancedAssignment, prices_of_an_earlier_problem_change_the_way_not_the_result) {
  BalancedAssignment assignment(120, 6);
  for (int64_t seed = 0; seed < 10; ++seed) {
    const Problem problem = random_problem(120, 6, 1'000'000'000, seed);
    EXPECT_EQ(solved_cost(problem, assignment), solved_cost(problem)) << seed;
  }
}

TEST(BalancedAssignment, the_certificate_sees_an_assignment_that_is_not_optimal) {
  const Problem problem = random_problem(40, 4, 1000, 1);
  BalancedAssignment assignment(40, 4);
  assignment.solve(problem.costs);
  std::vector<int32_t> labels = assignment.labels();
  const int64_t best = total_cost(problem.costs, labels, 4);
  for (size_t i = 1; i < labels.size(); ++i) {
    if (labels[i] == labels[0]) continue;
    std::swap(labels[0], labels[i]);
    const int64_t cost = total_cost(problem.costs, labels, 4);
    EXPECT_EQ(testing::duality_gap(problem.costs, labels, assignment.prices()), cost - best);
    std::swap(labels[0], labels[i]);
  }
}

}  // namespace
}  // namespace emoe::worker
