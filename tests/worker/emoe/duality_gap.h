#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

namespace emoe::worker::testing {

// Certificate: how much a balanced assignment costs above the dual value of `prices`, a lower bound
// of every balanced assignment's cost. 0 proves that none is cheaper. `costs` [items, clusters].
inline int64_t duality_gap(std::span<const int32_t> costs, std::span<const int32_t> labels,
                           std::span<const int64_t> prices) {
  // For any balanced labels the prices add the same to the assignment's cost and to the bound.
  const size_t clusters = prices.size();
  int64_t gap = 0;
  for (size_t item = 0; item < labels.size(); ++item) {
    const std::span<const int32_t> row = costs.subspan(item * clusters, clusters);
    int64_t lowest = std::numeric_limits<int64_t>::max();
    for (size_t c = 0; c < clusters; ++c) lowest = std::min(lowest, row[c] + prices[c]);
    const auto own = static_cast<size_t>(labels[item]);
    gap += row[own] + prices[own] - lowest;
  }
  return gap;
}

}  // namespace emoe::worker::testing
