#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace emoe::worker {

// The inner loops of the balanced assignment, each with one version per instruction set; all give
// the same integers.

inline constexpr int64_t kFarCost = std::numeric_limits<int64_t>::max() / 4;
inline constexpr int64_t kSettled = 2 * kFarCost;

// Cheapest and second cheapest cluster of an item under prices; -1: there is none.
struct TwoCheapest {
  int64_t first_cost = kFarCost;
  int64_t second_cost = kFarCost;
  int32_t first = -1;
  int32_t second = -1;

  void offer(int32_t cluster, int64_t value) {
    if (value < first_cost) {
      second_cost = first_cost;
      second = first;
      first_cost = value;
      first = cluster;
    } else if (value < second_cost) {
      second_cost = value;
      second = cluster;
    }
  }
};

// best[i] of cost[i, c] + prices[c]: of equal ones those of the lowest clusters. `costs`
// [best.size(), prices.size()].
void two_cheapest(std::span<const int32_t> costs, std::span<const int64_t> prices,
                  std::span<TwoCheapest> best);

// Makes `item` the one an edge moves wherever it is cheaper than the one before: edge_cost[c],
// edge_item[c] against costs[c] - here.
void offer_item(std::span<const int32_t> costs, int64_t here, int64_t item,
                std::span<int64_t> edge_cost, std::span<int64_t> edge_item);

// The first of the lowest; `values` is not empty.
[[nodiscard]] int32_t lowest_of(std::span<const int64_t> values);

// Dijkstra's step from a cluster at `base`: where base + edge_cost[c] + prices[c] is less than
// distances[c], that is the distance now, and `from` the parent. A distance of kSettled stays.
struct Paths {
  std::span<int64_t> distances;
  std::span<int64_t> parents;
};
void relax(std::span<const int64_t> edge_cost, std::span<const int64_t> prices, int64_t base,
           int64_t from, const Paths& paths);

}  // namespace emoe::worker
