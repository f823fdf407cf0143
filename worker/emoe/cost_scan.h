#pragma once

#include <cstdint>
#include <span>

namespace emoe::worker {

// The inner loops of cluster_costs.h, each with one version per instruction set; all give the same.

// costs[n] = (squares[n] − 2 · products[n] · scales[n] · scale) · unit in single precision, cut to
// whole numbers: estimates of what clusters cost a row.
struct Products {
  std::span<const int32_t> products;
  std::span<const float> scales;
  float scale;
};
void estimate_costs(const Products& products, std::span<const float> squares, float unit,
                    std::span<int32_t> costs);

// How many clusters c have costs[c] + levels[c] - slack · slopes[c] <= most, in single precision.
[[nodiscard]] int32_t count_below(std::span<const int32_t> costs, std::span<const float> levels,
                                  std::span<const float> slopes, float slack, float most);

}  // namespace emoe::worker
