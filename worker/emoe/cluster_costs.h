#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "worker/emoe/byte_rows.h"
#include "worker/emoe/dot_products.h"

namespace emoe::worker {

// Rows to be clustered, as every restart sees them.
struct KmeansRows {
  FloatRows rows;
  std::vector<float> squares;     // squared lengths
  double longest = 0.0;           // length of the longest row, at least
  float scale = 1.0F;             // costs are in units of 1 / scale
  std::optional<ByteRows> bytes;  // where costs may be estimated

  // Called with rows begin to end as soon as their bytes are there, while they are in the cache: by
  // several threads at once, each with other rows.
  using WhileRead =
      std::function<void(const FloatRows&, const ByteRows&, int64_t begin, int64_t end)>;
  KmeansRows(FloatRows given, bool with_bytes, int threads, const WhileRead& while_read = nullptr);
};

// What it costs one restart to have a row in a cluster: their squared distance without the row's
// own square, which no assignment changes, as an integer fine enough (2^-28 of the longest row's
// square) to keep every bit of a float near 1. Kept from iteration to iteration: only clusters
// whose members changed get a new mean, new products and new costs.
//
// Where the rows have bytes, costs are estimated from products of bytes, with a bound of how far
// each may be off, and computed only where they could turn a decision: see settle(). Neither the
// costs that decide nor the result depend on it. Not thread-safe.
class ClusterCosts {
 public:
  // `rows` must outlive the object; `threads` work at once, the result does not depend on them.
  ClusterCosts(const KmeansRows& rows, int32_t clusters, int threads);

  // Clusters around `centres`, rows by their index; `dots` [count, clusters] rows · centres.
  // Each of them is off by at most the centre's error [clusters]; none given: they were computed.
  void start_from(std::span<const int64_t> centres, std::span<const float> dots,
                  std::span<const double> errors = {});
  // Clusters around the means of their members. `labels` [count], each value as often.
  void move_to(const std::vector<int32_t>& labels);

  [[nodiscard]] std::span<const int32_t> values() const { return values_; }  // [count, clusters]

  // For an assignment that is optimal for values() and its prices (BalancedAssignment). Let a cost
  // be off by no more than e. The prices prove the assignment optimal for the costs themselves if
  // cost + price of each row's own cluster is at most that of any other cluster. Wherever the bounds
  // do not say that, the two costs are computed and put into values(). Returns how many were: with
  // 0, the assignment is optimal for the costs; otherwise values() have to be solved again.
  [[nodiscard]] int64_t settle(std::span<const int32_t> labels, std::span<const int64_t> prices);
  // total_cost() of one assignment less that of another, computed.
  [[nodiscard]] int64_t difference(std::span<const int32_t> labels, std::span<const int32_t> other);

 private:
  // Of an estimate of a row's cost: it is off by at most slope · (difference of the row's bytes)
  // + base.
  struct Bound {
    float slope = 0.0F;
    float base = 0.0F;
  };

  [[nodiscard]] std::vector<int32_t> changed_clusters(const std::vector<int32_t>& labels) const;
  void set_means(std::span<const int32_t> which, const std::vector<int32_t>& labels);
  void estimate(std::span<const int32_t> which);
  void compute(std::span<const int32_t> which);
  void compute_pairs(int64_t row, std::span<const int32_t> which);
  // The clusters of which a row's cost has to be computed; none: it is settled.
  void find_unsettled(int64_t row, int32_t own, std::span<const int64_t> prices,
                      std::vector<int32_t>& which) const;
  [[nodiscard]] int32_t cost_of(int32_t cluster, float dot) const;
  [[nodiscard]] double bound(int64_t row, int32_t cluster) const;
  [[nodiscard]] size_t pair(int64_t row, int32_t cluster) const {
    return static_cast<size_t>(row * clusters_ + cluster);
  }
  [[nodiscard]] int64_t count() const { return rows_.rows.rows(); }

  const KmeansRows& rows_;
  int32_t clusters_;
  int threads_;
  bool estimates_;               // as long as they save work
  std::vector<int32_t> labels_;  // of the means; empty: none yet
  FloatRows means_;
  std::vector<float> squares_;  // of the means
  std::vector<Bound> bounds_;   // [clusters] of estimates
  std::vector<int32_t> values_;
  std::vector<uint8_t> exact_;  // [count, clusters] 0: an estimate
  ByteRows bytes_;              // of the means that changed last
  std::vector<int32_t> byte_dots_;
};

// dots[i · columns.rows() + j] = rows.row(i) · columns.row(j) for all rows.
void all_products(const FloatRows& rows, const FloatRows& columns, int threads,
                  std::span<float> dots);

}  // namespace emoe::worker
