#include "worker/emoe/cluster_costs.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/parallel.h"
#include "worker/emoe/cost_scan.h"
#include "worker/emoe/index.h"

namespace emoe::worker {
namespace {

// Costs lie within ±2^30, so that single precision rounds one by at most 2^6. A cost and its
// estimate, and the sums that compare them, are fewer than 16 such operations.
constexpr float kRounding = 0x1.0p10F;
// When more than one in so many costs has to be computed, computing all of them is faster.
constexpr int64_t kWorthwhile = 8;

std::vector<int32_t> numbers_below(int32_t count) {
  std::vector<int32_t> numbers(at(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

}  // namespace

KmeansRows::KmeansRows(FloatRows given, bool with_bytes, int threads, const WhileRead& while_read)
    : rows(std::move(given)), squares(at(rows.rows())) {
  constexpr int64_t kAtOnce = 48;  // fit in the second level of the cache with what is made of them
  if (with_bytes) {
    bytes.emplace(rows.width());
    bytes->make_room(rows.rows());
  }
  in_parts(threads, rows.rows(), [&](int64_t first, int64_t last) {
    for (int64_t begin = first; begin < last; begin += kAtOnce) {
      const int64_t end = std::min(begin + kAtOnce, last);
      squared_lengths(rows, begin, end, std::span(squares).subspan(at(begin)));
      if (bytes) bytes->assign_rows(rows, begin, end);
      if (bytes && while_read) while_read(rows, *bytes, begin, end);
    }
  });
  const float most = squares.empty() ? 0.0F : *std::max_element(squares.begin(), squares.end());
  // |c|² − 2 x·c lies within ±3 · most, which must stay below 2^30.
  EMOE_CHECK(std::isfinite(most), "rows must be finite");
  if (most > 0.0F) scale = 0x1.0p28F / most;
  if (!bytes) return;
  for (int64_t i = 0; i < rows.rows(); ++i) longest = std::max(longest, bytes->length(i));
}

ClusterCosts::ClusterCosts(const KmeansRows& rows, int32_t clusters, int threads)
    : rows_(rows),
      clusters_(clusters),
      threads_(threads),
      estimates_(rows.bytes.has_value()),
      means_(clusters, rows.rows.width()),
      squares_(at(clusters)),
      bounds_(at(clusters)),
      values_(at(rows.rows.rows() * clusters)),
      exact_(values_.size()),
      bytes_(rows.rows.width()) {}

void ClusterCosts::start_from(std::span<const int64_t> centres, std::span<const float> dots,
                              std::span<const double> errors) {
  EMOE_CHECK(errors.empty() || estimates_);
  labels_.clear();
  for (int32_t c = 0; c < clusters_; ++c) {
    const int64_t row = centres[at(c)];
    std::copy_n(rows_.rows.row(row), means_.stride(), means_.row(c));
    squares_[at(c)] = rows_.squares[at(row)];
  }
  for (int64_t i = 0; i < count(); ++i) {
    for (int32_t c = 0; c < clusters_; ++c) values_[pair(i, c)] = cost_of(c, dots[pair(i, c)]);
  }
  std::ranges::fill(exact_, errors.empty() ? uint8_t{1} : uint8_t{0});
  const double unit = 2.0 * static_cast<double>(rows_.scale) * (1.0 + 1e-6);
  for (size_t c = 0; c < errors.size(); ++c) {
    bounds_[c] = {0.0F, static_cast<float>(unit * errors[c]) + kRounding};
  }
}

void ClusterCosts::move_to(const std::vector<int32_t>& labels) {
  const std::vector<int32_t> changed = changed_clusters(labels);
  if (changed.empty()) return;
  set_means(changed, labels);
  if (estimates_) {
    estimate(changed);
  } else {
    compute(changed);
  }
  labels_ = labels;
}

std::vector<int32_t> ClusterCosts::changed_clusters(const std::vector<int32_t>& labels) const {
  std::vector<bool> changed(at(clusters_), labels_.empty());
  for (size_t i = 0; i < labels_.size(); ++i) {
    if (labels[i] == labels_[i]) continue;
    changed[at(labels[i])] = true;
    changed[at(labels_[i])] = true;
  }
  std::vector<int32_t> which = numbers_below(clusters_);
  std::erase_if(which, [&changed](int32_t c) { return !changed[at(c)]; });
  return which;
}

void ClusterCosts::set_means(std::span<const int32_t> which, const std::vector<int32_t>& labels) {
  std::vector<std::vector<int32_t>> members(at(clusters_));
  for (size_t i = 0; i < labels.size(); ++i) {
    members[at(labels[i])].push_back(static_cast<int32_t>(i));
  }
  const float share = static_cast<float>(clusters_) / static_cast<float>(count());
  in_parts(threads_, std::ssize(which), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int32_t c = which[at(n)];
      scaled_sum(rows_.rows, members[at(c)], share, means_.row(c));
    }
  });
  squares_ = squared_lengths(means_);
}

// With x = x' + dx and c = c' + dc, primes for what the bytes say, x·c is off by
// dx·c + x'·dc, of which |x'| <= |x| + |dx|; and the computed product by its own rounding.
void ClusterCosts::estimate(std::span<const int32_t> which) {
  FloatRows changed(std::ssize(which), means_.width());
  for (int64_t n = 0; n < changed.rows(); ++n) {
    std::copy_n(means_.row(which[at(n)]), means_.stride(), changed.row(n));
  }
  bytes_.assign(changed, threads_);
  const double rounding = product_rounding(means_);
  const double unit = 2.0 * static_cast<double>(rows_.scale) * (1.0 + 1e-6);
  for (int64_t n = 0; n < changed.rows(); ++n) {
    const double length = bytes_.length(n);
    const double difference = bytes_.difference(n);
    Bound& bound = bounds_[at(which[at(n)])];
    bound.slope = static_cast<float>(unit * (length + difference));
    bound.base = static_cast<float>(unit * rows_.longest * (difference + rounding * length));
    bound.base += kRounding;
  }
  std::vector<float> scales;
  std::vector<float> squares;
  for (int64_t n = 0; n < changed.rows(); ++n) {
    scales.push_back(bytes_.scale(n));
    squares.push_back(squares_[at(which[at(n)])]);
  }
  byte_dots_.resize(at(count() * changed.rows()));
  in_parts(threads_, count(), [&](int64_t begin, int64_t end) {
    const std::span<int32_t> dots =
        std::span(byte_dots_)
            .subspan(at(begin * changed.rows()), at((end - begin) * changed.rows()));
    byte_products(*rows_.bytes, begin, end, bytes_, dots);
    std::vector<int32_t> costs(which.size());
    for (int64_t i = begin; i < end; ++i) {
      const std::span<const int32_t> line =
          dots.subspan(at((i - begin) * changed.rows()), which.size());
      estimate_costs({line, scales, rows_.bytes->scale(i)}, squares, rows_.scale, costs);
      for (size_t n = 0; n < which.size(); ++n) {
        values_[pair(i, which[n])] = costs[n];
        exact_[pair(i, which[n])] = 0;
      }
    }
  });
}

void ClusterCosts::compute(std::span<const int32_t> which) {
  FloatRows changed(std::ssize(which), means_.width());
  for (int64_t n = 0; n < changed.rows(); ++n) {
    std::copy_n(means_.row(which[at(n)]), means_.stride(), changed.row(n));
  }
  std::vector<float> dots(at(count() * changed.rows()));
  all_products(rows_.rows, changed, threads_, dots);
  for (int64_t i = 0; i < count(); ++i) {
    for (size_t n = 0; n < which.size(); ++n) {
      const size_t place = pair(i, which[n]);
      values_[place] = cost_of(which[n], dots[at(i) * which.size() + n]);
      exact_[place] = 1;
    }
  }
}

int64_t ClusterCosts::settle(std::span<const int32_t> labels, std::span<const int64_t> prices) {
  if (!estimates_) return 0;
  const int64_t lowest = *std::ranges::min_element(prices);
  std::vector<float> levels;
  std::vector<float> slopes;
  for (int32_t c = 0; c < clusters_; ++c) {
    levels.push_back(static_cast<float>(prices[at(c)] - lowest) - bounds_[at(c)].base);
    slopes.push_back(bounds_[at(c)].slope);
  }
  std::mutex mutex;
  std::vector<int32_t> rows;  // with costs to be computed
  int64_t costs = 0;
  in_parts(threads_, count(), [&](int64_t begin, int64_t end) {
    std::vector<int32_t> found;
    std::vector<int32_t> which;
    int64_t found_costs = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t own = labels[at(i)];
      const double value = values_[pair(i, own)] + static_cast<double>(prices[at(own)] - lowest);
      const auto most = static_cast<float>(value + bound(i, own)) + kRounding;
      const std::span<const int32_t> line = std::span(values_).subspan(pair(i, 0), at(clusters_));
      const auto slack = static_cast<float>(rows_.bytes->difference(i) * (1.0 + 1e-6));
      if (count_below(line, levels, slopes, slack, most) < 2) continue;  // its own alone
      find_unsettled(i, own, prices, which);
      if (which.empty()) continue;
      found.push_back(static_cast<int32_t>(i));
      found_costs += std::ssize(which);
    }
    const std::scoped_lock lock(mutex);
    rows.insert(rows.end(), found.begin(), found.end());
    costs += found_costs;
  });
  if (costs * kWorthwhile > count() * clusters_) {
    estimates_ = false;
    compute(numbers_below(clusters_));
    return costs;
  }
  in_parts(threads_, std::ssize(rows), [&](int64_t begin, int64_t end) {
    std::vector<int32_t> which;
    for (int64_t n = begin; n < end; ++n) {
      const int32_t row = rows[at(n)];
      if (n + 1 < end) fetch_row(rows_.rows.row(rows[at(n + 1)]), rows_.rows.stride());
      find_unsettled(row, labels[at(row)], prices, which);
      compute_pairs(row, which);
    }
  });
  return costs;
}

void ClusterCosts::find_unsettled(int64_t row, int32_t own, std::span<const int64_t> prices,
                                  std::vector<int32_t>& which) const {
  which.clear();
  const double off = exact_[pair(row, own)] != 0 ? 0.0 : bound(row, own);
  const double most = static_cast<double>(values_[pair(row, own)] + prices[at(own)]) + off;
  bool rivals = false;
  for (int32_t c = 0; c < clusters_; ++c) {
    if (c == own) continue;
    const bool exact = exact_[pair(row, c)] != 0;
    const auto value = static_cast<double>(values_[pair(row, c)] + prices[at(c)]);
    if (value - (exact ? 0.0 : bound(row, c)) >= most) continue;
    rivals = true;
    if (!exact) which.push_back(c);
  }
  if (rivals && exact_[pair(row, own)] == 0) which.push_back(own);
}

int64_t ClusterCosts::difference(std::span<const int32_t> labels, std::span<const int32_t> other) {
  int64_t total = 0;
  std::vector<int32_t> which;
  for (int64_t i = 0; i < count(); ++i) {
    const int32_t one = labels[at(i)];
    const int32_t two = other[at(i)];
    if (one == two) continue;
    which.clear();
    for (const int32_t c : {one, two}) {
      if (exact_[pair(i, c)] == 0) which.push_back(c);
    }
    compute_pairs(i, which);
    total += values_[pair(i, one)] - values_[pair(i, two)];
  }
  return total;
}

void ClusterCosts::compute_pairs(int64_t row, std::span<const int32_t> which) {
  std::vector<float> dots(which.size());
  dot_products(rows_.rows.row(row), means_, which, dots);
  for (size_t n = 0; n < which.size(); ++n) {
    values_[pair(row, which[n])] = cost_of(which[n], dots[n]);
    exact_[pair(row, which[n])] = 1;
  }
}

int32_t ClusterCosts::cost_of(int32_t cluster, float dot) const {
  return static_cast<int32_t>(std::lrintf((squares_[at(cluster)] - 2.0F * dot) * rows_.scale));
}

double ClusterCosts::bound(int64_t row, int32_t cluster) const {
  const Bound& bound = bounds_[at(cluster)];
  return rows_.bytes->difference(row) * (1.0 + 1e-6) * static_cast<double>(bound.slope) +
         static_cast<double>(bound.base) * (1.0 + 1e-6);
}

void all_products(const FloatRows& rows, const FloatRows& columns, int threads,
                  std::span<float> dots) {
  in_parts(threads, rows.rows(), [&](int64_t begin, int64_t end) {
    dot_products(rows, begin, end, columns, dots.subspan(at(begin * columns.rows())));
  });
}

}  // namespace emoe::worker
