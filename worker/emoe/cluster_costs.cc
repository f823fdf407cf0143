#include "worker/emoe/cluster_costs.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "worker/emoe/index.h"
#include "worker/emoe/parallel.h"

namespace emoe::worker {

KmeansRows::KmeansRows(FloatRows given) : rows(std::move(given)), squares(squared_lengths(rows)) {
  const float longest = squares.empty() ? 0.0F : *std::max_element(squares.begin(), squares.end());
  // |c|² − 2 x·c lies within ±3 · longest, which must stay below 2^30.
  EMOE_CHECK(std::isfinite(longest), "rows must be finite");
  if (longest > 0.0F) scale = 0x1.0p28F / longest;
}

ClusterCosts::ClusterCosts(const KmeansRows& rows, int32_t clusters, int threads)
    : rows_(rows),
      clusters_(clusters),
      threads_(threads),
      values_(at(rows.rows.rows() * clusters)) {}

void ClusterCosts::start_from(std::span<const int64_t> centres, std::span<const float> dots) {
  std::vector<int32_t> all(at(clusters_));
  std::iota(all.begin(), all.end(), 0);
  std::vector<float> squares;
  for (const int64_t row : centres) squares.push_back(rows_.squares[at(row)]);
  set_costs(all, squares, dots);
  labels_.clear();
}

void ClusterCosts::move_to(const std::vector<int32_t>& labels) {
  const std::vector<int32_t> changed = changed_clusters(labels);
  if (changed.empty()) return;
  labels_ = labels;
  std::vector<std::vector<int32_t>> members(at(clusters_));
  for (size_t i = 0; i < labels.size(); ++i) {
    members[at(labels[i])].push_back(static_cast<int32_t>(i));
  }
  const int64_t count = rows_.rows.rows();
  const float share = static_cast<float>(clusters_) / static_cast<float>(count);
  FloatRows means(std::ssize(changed), rows_.rows.width());
  in_parts(threads_, means.rows(), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      scaled_sum(rows_.rows, members[at(changed[at(c)])], share, means.row(c));
    }
  });
  std::vector<float> dots(at(count * means.rows()));
  all_products(rows_.rows, means, threads_, dots);
  set_costs(changed, squared_lengths(means), dots);
}

std::vector<int32_t> ClusterCosts::changed_clusters(const std::vector<int32_t>& labels) const {
  std::vector<bool> changed(at(clusters_), labels_.empty());
  for (size_t i = 0; i < labels_.size(); ++i) {
    if (labels[i] == labels_[i]) continue;
    changed[at(labels[i])] = true;
    changed[at(labels_[i])] = true;
  }
  std::vector<int32_t> which;
  for (int32_t c = 0; c < clusters_; ++c) {
    if (changed[at(c)]) which.push_back(c);
  }
  return which;
}

void ClusterCosts::set_costs(std::span<const int32_t> which, std::span<const float> squares,
                             std::span<const float> dots) {
  const float scale = rows_.scale;
  in_parts(threads_, rows_.rows.rows(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* dot = dots.data() + i * std::ssize(which);
      int32_t* costs = values_.data() + i * clusters_;
      for (size_t c = 0; c < which.size(); ++c) {
        costs[which[c]] = static_cast<int32_t>(std::lrintf((squares[c] - 2.0F * dot[c]) * scale));
      }
    }
  });
}

void all_products(const FloatRows& rows, const FloatRows& columns, int threads,
                  std::span<float> dots) {
  in_parts(threads, rows.rows(), [&](int64_t begin, int64_t end) {
    dot_products(rows, begin, end, columns, dots.subspan(at(begin * columns.rows())));
  });
}

}  // namespace emoe::worker
