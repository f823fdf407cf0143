#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/emoe/price_scan.h"

namespace emoe::worker {

// The transport problem of balanced k-means: n items, N clusters with room for E = n / N items
// each, integer costs; find the cheapest assignment. Solved exactly: with so few clusters the dual
// has only N prices. Sweeps over the prices bring the cluster sizes close to E; what is left is
// moved along shortest paths in the graph of clusters, where the edge a → b costs the cheapest move
// of one item from a to b (successive shortest paths; Ahuja, Magnanti, Orlin, "Network Flows",
// ch. 9). All arithmetic is in integers, so the result is optimal without a tolerance and the same
// everywhere. Memory: N² · 16 bytes beside the costs and a copy of them. Not thread-safe.
class BalancedAssignment {
 public:
  // clusters must divide items; both above 0.
  BalancedAssignment(int64_t items, int32_t clusters);

  // `costs` [items, clusters], |cost| <= 2^30. Starts from the prices of the solve before, so that
  // a series of similar problems (k-means iterations) gets cheaper.
  void solve(std::span<const int32_t> costs);

  [[nodiscard]] const std::vector<int32_t>& labels() const { return labels_; }  // [items]
  // [clusters] the dual solution: with it anyone can verify that no assignment is cheaper.
  [[nodiscard]] const std::vector<int64_t>& prices() const { return prices_; }

 private:
  void balance_prices();
  void set_price(int32_t cluster, std::span<const int32_t> costs);
  [[nodiscard]] int64_t surplus() const;
  void assign_to_cheapest();
  void rebuild_row(int32_t from);
  void offer_moves(int32_t from, int32_t item);
  void update_row(int32_t cluster, int32_t lost, int32_t gained);
  // Distances by Dijkstra from all clusters above E; returns the first one below E that is reached,
  // or -1 when none is above E.
  int32_t shortest_path();
  void move_along_path(int32_t target);
  [[nodiscard]] int64_t cost(int64_t item, int32_t cluster) const {
    return costs_[static_cast<size_t>(item * clusters_ + cluster)];
  }
  [[nodiscard]] int32_t parent_of(int32_t cluster) const {
    return static_cast<int32_t>(parent_[static_cast<size_t>(cluster)]);
  }
  [[nodiscard]] size_t edge(int32_t from, int32_t to) const {
    return static_cast<size_t>(from) * static_cast<size_t>(clusters_) + static_cast<size_t>(to);
  }

  int64_t items_;
  int32_t clusters_;
  int64_t capacity_;
  std::span<const int32_t> costs_;
  std::vector<int32_t> labels_;
  std::vector<int64_t> prices_;
  std::vector<std::vector<int32_t>> members_;
  std::vector<int64_t> edge_cost_;  // [N, N] cheapest move of one item
  std::vector<int64_t> edge_item_;  // [N, N] that item; -1: none
  std::vector<bool> has_row_;       // [N] whether those out of a cluster are made: when a path asks
  std::vector<TwoCheapest> best_;   // [items] under the prices
  std::vector<int64_t> worth_;      // [items] the highest price at which each would still come
  std::vector<int64_t> open_;       // [clusters] distances of those that are not settled
  std::vector<int64_t> distance_;   // [clusters]
  std::vector<int64_t> parent_;     // [clusters] on the way there; -1: none
};

[[nodiscard]] int64_t total_cost(std::span<const int32_t> costs, std::span<const int32_t> labels,
                                 int32_t clusters);

}  // namespace emoe::worker
