#include "worker/emoe/balanced_assignment.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "worker/emoe/index.h"

namespace emoe::worker {
namespace {

constexpr int64_t kFar = std::numeric_limits<int64_t>::max() / 4;
constexpr int kMaxSweeps = 12;

}  // namespace

struct BalancedAssignment::Best {
  int64_t first_cost = kFar;
  int64_t second_cost = kFar;
  int32_t first = -1;
  int32_t second = -1;

  void offer(int32_t cluster, int64_t value) {
    if (value < first_cost) {
      second_cost = std::exchange(first_cost, value);
      second = std::exchange(first, cluster);
    } else if (value < second_cost) {
      second_cost = value;
      second = cluster;
    }
  }
};

BalancedAssignment::BalancedAssignment(int64_t items, int32_t clusters)
    : items_(items),
      clusters_(clusters),
      capacity_(items / clusters),
      labels_(at(items)),
      prices_(at(clusters), 0),
      members_(at(clusters)),
      edge_cost_(at(clusters) * at(clusters)),
      edge_item_(at(clusters) * at(clusters)),
      distance_(at(clusters)),
      parent_(at(clusters)) {
  EMOE_CHECK(items > 0 && clusters > 0 && items % clusters == 0, "clusters must divide items");
}

void BalancedAssignment::solve(std::span<const int32_t> costs) {
  EMOE_CHECK(costs.size() == at(items_) * at(clusters_), "costs must be [items, clusters]");
  costs_ = costs;
  balance_prices();
  assign_to_cheapest();
  for (int32_t from = 0; from < clusters_; ++from) rebuild_row(from);
  for (int32_t target = shortest_path(); target >= 0; target = shortest_path()) {
    move_along_path(target);
  }
  costs_ = {};
}

// Coordinate ascent on the dual: each price in turn is set so that exactly E items like its cluster
// best. Any prices are a valid start for the paths; balanced ones leave few of them.
void BalancedAssignment::balance_prices() {
  if (clusters_ == 1) return;
  std::vector<Best> best(at(items_));
  for (int64_t item = 0; item < items_; ++item) {
    for (int32_t c = 0; c < clusters_; ++c) best[at(item)].offer(c, cost(item, c) + prices_[at(c)]);
  }
  for (int i = 0; i < kMaxSweeps && sweep(best); ++i) {
  }
}

bool BalancedAssignment::sweep(std::vector<Best>& best) {
  std::vector<int64_t> sizes(at(clusters_), 0);
  for (const Best& b : best) ++sizes[at(b.first)];
  int64_t surplus = 0;
  for (const int64_t size : sizes) surplus += std::max<int64_t>(size - capacity_, 0);
  if (surplus * 128 <= items_) return false;
  std::vector<int64_t> worth(at(items_));  // the highest price at which the item would still come
  for (int32_t c = 0; c < clusters_; ++c) {
    for (int64_t item = 0; item < items_; ++item) {
      const Best& b = best[at(item)];
      worth[at(item)] = (b.first == c ? b.second_cost : b.first_cost) - cost(item, c);
    }
    // Between the E-th and the next highest worth.
    const auto middle = worth.begin() + capacity_;
    std::nth_element(worth.begin(), middle, worth.end(), std::greater<>());
    const int64_t inside = *std::min_element(worth.begin(), middle);
    prices_[at(c)] = *middle + (inside - *middle) / 2;
    for (int64_t item = 0; item < items_; ++item) {
      Best& b = best[at(item)];
      if (b.first != c && b.second != c) {
        b.offer(c, cost(item, c) + prices_[at(c)]);
        continue;
      }
      b = Best();
      for (int32_t k = 0; k < clusters_; ++k) b.offer(k, cost(item, k) + prices_[at(k)]);
    }
  }
  return true;
}

void BalancedAssignment::assign_to_cheapest() {
  for (auto& list : members_) list.clear();
  for (int64_t item = 0; item < items_; ++item) {
    Best best;
    for (int32_t c = 0; c < clusters_; ++c) best.offer(c, cost(item, c) + prices_[at(c)]);
    labels_[at(item)] = best.first;
    members_[at(best.first)].push_back(static_cast<int32_t>(item));
  }
}

void BalancedAssignment::rebuild_row(int32_t from) {
  std::fill_n(&edge_cost_[edge(from, 0)], clusters_, kFar);
  std::fill_n(&edge_item_[edge(from, 0)], clusters_, -1);
  edge_cost_[edge(from, from)] = -kFar;  // staying is no move
  for (const int32_t item : members_[at(from)]) offer_moves(from, item);
}

// Makes an item of a cluster the one that its edges move, wherever it is the cheapest so far.
void BalancedAssignment::offer_moves(int32_t from, int32_t item) {
  int64_t* row_cost = &edge_cost_[edge(from, 0)];
  int32_t* row_item = &edge_item_[edge(from, 0)];
  const int64_t here = cost(item, from);
  for (int32_t to = 0; to < clusters_; ++to) {
    const int64_t move = cost(item, to) - here;
    if (move < row_cost[to]) {
      row_cost[to] = move;
      row_item[to] = item;
    }
  }
}

// The edges out of a cluster that lost and gained an item (-1: none); members_ is already changed.
void BalancedAssignment::update_row(int32_t cluster, int32_t lost, int32_t gained) {
  const int32_t* row_item = &edge_item_[edge(cluster, 0)];
  // Where the lost item was the cheapest to move, all members are asked again.
  if (lost >= 0 && std::find(row_item, row_item + clusters_, lost) != row_item + clusters_) {
    rebuild_row(cluster);
  } else if (gained >= 0) {
    offer_moves(cluster, gained);
  }
}

int32_t BalancedAssignment::shortest_path() {
  bool surplus = false;
  std::vector<bool> settled(at(clusters_), false);
  for (int32_t c = 0; c < clusters_; ++c) {
    const bool source = std::ssize(members_[at(c)]) > capacity_;
    surplus = surplus || source;
    distance_[at(c)] = source ? 0 : kFar;
    parent_[at(c)] = -1;
  }
  if (!surplus) return -1;
  while (true) {
    int32_t nearest = -1;
    for (int32_t c = 0; c < clusters_; ++c) {
      if (!settled[at(c)] && (nearest < 0 || distance_[at(c)] < distance_[at(nearest)]))
        nearest = c;
    }
    EMOE_CHECK(nearest >= 0 && distance_[at(nearest)] < kFar, "no cluster with room is reachable");
    if (std::ssize(members_[at(nearest)]) < capacity_) return nearest;
    settled[at(nearest)] = true;
    const int64_t base = distance_[at(nearest)] - prices_[at(nearest)];
    for (int32_t c = 0; c < clusters_; ++c) {
      if (settled[at(c)] || edge_item_[edge(nearest, c)] < 0) continue;
      const int64_t reached = base + edge_cost_[edge(nearest, c)] + prices_[at(c)];
      if (reached < distance_[at(c)]) {
        distance_[at(c)] = reached;
        parent_[at(c)] = nearest;
      }
    }
  }
}

void BalancedAssignment::move_along_path(int32_t target) {
  // New prices keep every reduced cost >= 0 and make those on the path 0.
  const int64_t length = distance_[at(target)];
  for (int32_t c = 0; c < clusters_; ++c) prices_[at(c)] -= std::min(distance_[at(c)], length);
  std::vector<std::pair<int32_t, int32_t>> steps;  // cluster on the path, item it gains
  for (int32_t to = target; parent_[at(to)] >= 0; to = parent_[at(to)]) {
    steps.emplace_back(to, edge_item_[edge(parent_[at(to)], to)]);
  }
  for (const auto& [to, item] : steps) {
    auto& from_list = members_[at(labels_[at(item)])];
    *std::find(from_list.begin(), from_list.end(), item) = from_list.back();
    from_list.pop_back();
    members_[at(to)].push_back(item);
    labels_[at(item)] = to;
  }
  for (size_t i = 0; i <= steps.size(); ++i) {  // from the target back to the source
    const int32_t cluster = i < steps.size() ? steps[i].first : parent_[at(steps.back().first)];
    const int32_t lost = i > 0 ? steps[i - 1].second : -1;
    const int32_t gained = i < steps.size() ? steps[i].second : -1;
    update_row(cluster, lost, gained);
  }
}

int64_t total_cost(std::span<const int32_t> costs, std::span<const int32_t> labels,
                   int32_t clusters) {
  int64_t total = 0;
  for (size_t item = 0; item < labels.size(); ++item) {
    total += costs[item * at(clusters) + at(labels[item])];
  }
  return total;
}

}  // namespace emoe::worker
