#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/emoe/dot_products.h"

namespace emoe::worker {

// Rows to be clustered, as every restart sees them.
struct KmeansRows {
  FloatRows rows;
  std::vector<float> squares;  // squared lengths
  float scale = 1.0F;          // costs are in units of 1 / scale

  explicit KmeansRows(FloatRows given);
};

// What it costs one restart to have a row in a cluster: their squared distance without the row's
// own square, which no assignment changes, as an integer fine enough (2^-28 of the longest row's
// square) to keep every bit of a float near 1. Kept from iteration to iteration: only clusters
// whose members changed get a new mean, new products and new costs. Not thread-safe.
class ClusterCosts {
 public:
  // `rows` must outlive the object; `threads` work at once, the result does not depend on them.
  ClusterCosts(const KmeansRows& rows, int32_t clusters, int threads);

  // Clusters around `centres`, rows by their index; `dots` [count, clusters] rows · centres.
  void start_from(std::span<const int64_t> centres, std::span<const float> dots);
  // Clusters around the means of their members. `labels` [count], each value as often.
  void move_to(const std::vector<int32_t>& labels);

  [[nodiscard]] std::span<const int32_t> values() const { return values_; }  // [count, clusters]

 private:
  [[nodiscard]] std::vector<int32_t> changed_clusters(const std::vector<int32_t>& labels) const;
  void set_costs(std::span<const int32_t> which, std::span<const float> squares,
                 std::span<const float> dots);

  const KmeansRows& rows_;
  int32_t clusters_;
  int threads_;
  std::vector<int32_t> labels_;  // of the means; empty: none yet
  std::vector<int32_t> values_;
};

// dots[i · columns.rows() + j] = rows.row(i) · columns.row(j) for all rows.
void all_products(const FloatRows& rows, const FloatRows& columns, int threads,
                  std::span<float> dots);

}  // namespace emoe::worker
