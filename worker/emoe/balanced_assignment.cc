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

constexpr int kMaxSweeps = 12;

}  // namespace

BalancedAssignment::BalancedAssignment(int64_t items, int32_t clusters)
    : items_(items),
      clusters_(clusters),
      capacity_(items / clusters),
      labels_(at(items)),
      prices_(at(clusters), 0),
      members_(at(clusters)),
      edge_cost_(at(clusters) * at(clusters)),
      edge_item_(at(clusters) * at(clusters)),
      has_row_(at(clusters)),
      best_(at(items)),
      open_(at(clusters)),
      distance_(at(clusters)),
      parent_(at(clusters)) {
  EMOE_CHECK(items > 0 && clusters > 0 && items % clusters == 0, "clusters must divide items");
}

void BalancedAssignment::solve(std::span<const int32_t> costs) {
  EMOE_CHECK(costs.size() == at(items_) * at(clusters_), "costs must be [items, clusters]");
  costs_ = costs;
  two_cheapest(costs_, prices_, best_);
  balance_prices();
  assign_to_cheapest();
  has_row_.assign(at(clusters_), false);
  for (int32_t target = shortest_path(); target >= 0; target = shortest_path()) {
    move_along_path(target);
  }
  costs_ = {};
}

// How many items have to leave the cluster they like best.
int64_t BalancedAssignment::surplus() const {
  std::vector<int64_t> sizes(at(clusters_), 0);
  for (const TwoCheapest& best : best_) ++sizes[at(best.first)];
  int64_t total = 0;
  for (const int64_t size : sizes) total += std::max<int64_t>(size - capacity_, 0);
  return total;
}

// Coordinate ascent on the dual: each price in turn is set so that exactly E items like its cluster
// best. Any prices are a valid start for the paths; balanced ones leave few of them.
void BalancedAssignment::balance_prices() {
  const auto balanced = [this] { return surplus() * 32 <= items_; };
  if (clusters_ == 1 || balanced()) return;
  std::vector<int32_t> by_cluster(costs_.size());  // [clusters, items]
  constexpr int64_t kAtOnce = 16;                  // a line of the cache
  for (int64_t first = 0; first < clusters_; first += kAtOnce) {
    const int64_t end = std::min<int64_t>(first + kAtOnce, clusters_);
    for (int64_t item = 0; item < items_; ++item) {
      for (int64_t c = first; c < end; ++c) {
        by_cluster[at(c * items_ + item)] = cost(item, static_cast<int32_t>(c));
      }
    }
  }
  for (int sweeps = 0; sweeps < kMaxSweeps && (sweeps == 0 || !balanced()); ++sweeps) {
    for (int32_t c = 0; c < clusters_; ++c) {
      const std::span<const int32_t> all(by_cluster);
      set_price(c, all.subspan(at(c * items_), at(items_)));
    }
  }
}

// `costs` [items] of this cluster.
void BalancedAssignment::set_price(int32_t c, std::span<const int32_t> costs) {
  worth_.resize(at(items_));
  for (size_t item = 0; item < costs.size(); ++item) {
    const TwoCheapest& best = best_[item];
    worth_[item] = (best.first == c ? best.second_cost : best.first_cost) - costs[item];
  }
  // Between the E-th and the next highest worth.
  const auto middle = worth_.begin() + capacity_;
  std::nth_element(worth_.begin(), middle, worth_.end(), std::greater<>());
  const int64_t inside = *std::min_element(worth_.begin(), middle);
  prices_[at(c)] = *middle + (inside - *middle) / 2;
  for (size_t item = 0; item < costs.size(); ++item) {
    TwoCheapest& best = best_[item];
    if (best.first != c && best.second != c) {
      best.offer(c, costs[item] + prices_[at(c)]);
    } else {
      two_cheapest(costs_.subspan(item * prices_.size(), prices_.size()), prices_, {&best, 1});
    }
  }
}

void BalancedAssignment::assign_to_cheapest() {
  for (auto& list : members_) list.clear();
  for (int64_t item = 0; item < items_; ++item) {
    labels_[at(item)] = best_[at(item)].first;
    members_[at(labels_[at(item)])].push_back(static_cast<int32_t>(item));
  }
}

void BalancedAssignment::rebuild_row(int32_t from) {
  std::fill_n(&edge_cost_[edge(from, 0)], clusters_, kFarCost);
  std::fill_n(&edge_item_[edge(from, 0)], clusters_, -1);
  edge_cost_[edge(from, from)] = -kFarCost;  // staying is no move
  has_row_[at(from)] = true;
  for (const int32_t item : members_[at(from)]) offer_moves(from, item);
}

// Makes an item of a cluster the one that its edges move, wherever it is the cheapest so far.
void BalancedAssignment::offer_moves(int32_t from, int32_t item) {
  offer_item(costs_.subspan(at(int64_t{item} * clusters_), at(clusters_)), cost(item, from), item,
             {&edge_cost_[edge(from, 0)], at(clusters_)},
             {&edge_item_[edge(from, 0)], at(clusters_)});
}

// The edges out of a cluster that lost and gained an item (-1: none); members_ is already changed.
void BalancedAssignment::update_row(int32_t cluster, int32_t lost, int32_t gained) {
  if (!has_row_[at(cluster)]) return;
  const int64_t* row_item = &edge_item_[edge(cluster, 0)];
  // Where the lost item was the cheapest to move, all members are asked again.
  if (lost >= 0 && std::find(row_item, row_item + clusters_, lost) != row_item + clusters_) {
    rebuild_row(cluster);
  } else if (gained >= 0) {
    offer_moves(cluster, gained);
  }
}

int32_t BalancedAssignment::shortest_path() {
  bool surplus = false;
  for (int32_t c = 0; c < clusters_; ++c) {
    const bool source = std::ssize(members_[at(c)]) > capacity_;
    surplus = surplus || source;
    open_[at(c)] = source ? 0 : kFarCost;
    parent_[at(c)] = -1;
  }
  if (!surplus) return -1;
  std::ranges::fill(distance_, kSettled);
  while (true) {
    const int32_t nearest = lowest_of(open_);
    const int64_t distance = open_[at(nearest)];
    // An edge that no item is there for costs kFarCost.
    EMOE_CHECK(distance < kFarCost / 2, "no cluster with room is reachable");
    if (std::ssize(members_[at(nearest)]) < capacity_) {
      for (int32_t c = 0; c < clusters_; ++c) {
        distance_[at(c)] = std::min(distance_[at(c)], open_[at(c)]);
      }
      return nearest;
    }
    if (!has_row_[at(nearest)]) rebuild_row(nearest);
    distance_[at(nearest)] = distance;
    open_[at(nearest)] = kSettled;
    relax({&edge_cost_[edge(nearest, 0)], at(clusters_)}, prices_, distance - prices_[at(nearest)],
          nearest, {open_, parent_});
  }
}

void BalancedAssignment::move_along_path(int32_t target) {
  // New prices keep every reduced cost >= 0 and make those on the path 0.
  const int64_t length = distance_[at(target)];
  for (int32_t c = 0; c < clusters_; ++c) prices_[at(c)] -= std::min(distance_[at(c)], length);
  std::vector<std::pair<int32_t, int32_t>> steps;  // cluster on the path, item it gains
  for (int32_t to = target; parent_[at(to)] >= 0; to = parent_of(to)) {
    const int64_t item = edge_item_[edge(parent_of(to), to)];
    steps.emplace_back(to, static_cast<int32_t>(item));
  }
  for (const auto& [to, item] : steps) {
    auto& from_list = members_[at(labels_[at(item)])];
    *std::find(from_list.begin(), from_list.end(), item) = from_list.back();
    from_list.pop_back();
    members_[at(to)].push_back(item);
    labels_[at(item)] = to;
  }
  for (size_t i = 0; i <= steps.size(); ++i) {  // from the target back to the source
    const int32_t cluster = i < steps.size() ? steps[i].first : parent_of(steps.back().first);
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
