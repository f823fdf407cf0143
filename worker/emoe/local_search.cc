#include "worker/emoe/local_search.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "worker/emoe/balanced_assignment.h"
#include "worker/emoe/balanced_kmeans.h"
#include "worker/emoe/index.h"

namespace emoe::worker {
namespace {

constexpr int kMaxPasses = 200;  // a few suffice; a bound against the unforeseen
constexpr int kPatience = 24;    // draws without gain before giving up
// Above so many clusters a draw costs more than it brings (its assignment problem is N x N).
constexpr int32_t kMostRedistributed = 512;

}  // namespace

LocalSearch::LocalSearch(std::span<const float> gram, int64_t n, int32_t clusters, int64_t seed)
    : gram_(gram),
      n_(n),
      clusters_(clusters),
      seed_(seed),
      products_(static_cast<size_t>(n * clusters)) {
  EMOE_CHECK(std::ssize(gram) == n * n);
  for (int64_t i = 0; i < n; ++i) longest_ = std::max(longest_, this->gram(i, i));
  least_gain_ = 1e-5 * longest_;
}

int64_t LocalSearch::improve(std::vector<int32_t>& labels) {
  sum_products(labels);
  int64_t total = exchange_pairs(labels);
  if (clusters_ > kMostRedistributed || clusters_ == 1 || longest_ == 0.0) return total;
  for (int idle = 0; idle < kPatience; ++idle) {
    if (!redistribute(labels)) continue;
    total += 1 + exchange_pairs(labels);
    idle = -1;
  }
  return total;
}

void LocalSearch::sum_products(const std::vector<int32_t>& labels) {
  std::fill(products_.begin(), products_.end(), 0.0);
  for (int64_t i = 0; i < n_; ++i) {
    for (int64_t k = 0; k < n_; ++k) product(i, labels[at(k)]) += gram(i, k);
  }
}

int64_t LocalSearch::exchange_pairs(std::vector<int32_t>& labels) {
  int64_t total = 0;
  for (int pass = 0; pass < kMaxPasses; ++pass) {
    int64_t exchanges = 0;
    for (int64_t row = 0; row < n_; ++row) exchanges += improve_row(row, labels) ? 1 : 0;
    total += exchanges;
    if (exchanges == 0) break;
  }
  return total;
}

// With S_c the sum of cluster c, the objective is sum |x|² − sum |S_c|² / E. Exchanging i of a for
// j of b lowers it by 2/E times the gain (S_a − S_b)·(x_j − x_i) + |x_i − x_j|².
bool LocalSearch::improve_row(int64_t i, std::vector<int32_t>& labels) {
  const int32_t a = labels[at(i)];
  double best = least_gain_;
  int64_t partner = -1;
  for (int64_t j = 0; j < n_; ++j) {
    const int32_t b = labels[at(j)];
    if (b == a) continue;
    const double gain = product(j, a) - product(j, b) - product(i, a) + product(i, b) + gram(i, i) +
                        gram(j, j) - 2.0 * gram(i, j);
    if (gain > best) {
      best = gain;
      partner = j;
    }
  }
  if (partner < 0) return false;
  const int32_t b = labels[at(partner)];
  move(i, b, labels);
  move(partner, a, labels);
  return true;
}

// With one member out of each cluster and R_c the sum of the rest, putting x into c lowers the
// objective by (2 R_c·x + |x|² + |R_c|²) / E, of which only R_c·x depends on who goes where.
bool LocalSearch::redistribute(std::vector<int32_t>& labels) {
  const std::vector<int64_t> out = draw_one_of_each(labels);
  const double members = static_cast<double>(n_) / clusters_;
  const double scale = 0x1.0p29 / (members * longest_);  // |R_c·x| <= members · longest
  std::vector<int32_t> costs;
  for (const int64_t row : out) {
    for (int32_t c = 0; c < clusters_; ++c) {
      const double rest = product(row, c) - gram(row, out[at(c)]);
      costs.push_back(static_cast<int32_t>(std::lrint(-rest * scale)));
    }
  }
  BalancedAssignment assignment(clusters_, clusters_);
  assignment.solve(costs);
  const std::vector<int32_t>& to = assignment.labels();
  double gain = 0.0;
  for (int32_t c = 0; c < clusters_; ++c) {
    const int64_t row = out[at(c)];
    gain += product(row, to[at(c)]) - gram(row, out[at(to[at(c)])]);
    gain -= product(row, c) - gram(row, row);
  }
  if (gain <= least_gain_) return false;
  for (int32_t c = 0; c < clusters_; ++c) {
    if (to[at(c)] != c) move(out[at(c)], to[at(c)], labels);
  }
  return true;
}

void LocalSearch::move(int64_t row, int32_t to, std::vector<int32_t>& labels) {
  const int32_t from = labels[at(row)];
  for (int64_t k = 0; k < n_; ++k) {
    product(k, from) -= gram(k, row);
    product(k, to) += gram(k, row);
  }
  labels[at(row)] = to;
}

std::vector<int64_t> LocalSearch::draw_one_of_each(const std::vector<int32_t>& labels) {
  std::vector<std::vector<int64_t>> members(at(clusters_));
  for (int64_t i = 0; i < n_; ++i) members[at(labels[at(i)])].push_back(i);
  std::vector<int64_t> drawn;
  for (const std::vector<int64_t>& list : members) {
    drawn.push_back(list[partition_random_bits(seed_, 0, -2, draws_++) % list.size()]);
  }
  return drawn;
}

}  // namespace emoe::worker
