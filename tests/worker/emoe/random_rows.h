#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "worker/emoe/balanced_kmeans.h"
#include "worker/emoe/dot_products.h"

namespace emoe::worker::testing {

inline double normal(int64_t seed, int64_t draw) {  // sum of uniforms: near enough
  double sum = 0.0;
  for (int64_t i = 0; i < 12; ++i) {
    sum += static_cast<double>(partition_random_bits(seed, 1, i, draw) >> 11) * 0x1.0p-53;
  }
  return sum - 6.0;
}

inline std::vector<float> random_rows(int64_t count, int64_t width, int64_t seed) {
  std::vector<float> rows;
  for (int64_t i = 0; i < count * width; ++i) rows.push_back(static_cast<float>(normal(seed, i)));
  return rows;
}

// `clusters` far centres, rows around them in an order that mixes the clusters.
inline std::vector<float> planted_rows(int64_t count, int64_t width, int32_t clusters,
                                       double noise) {
  const std::vector<float> centres = random_rows(clusters, width, 5);
  std::vector<float> rows;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < width; ++k) {
      rows.push_back(centres[static_cast<size_t>(i % clusters * width + k)] +
                     static_cast<float>(noise * normal(6, i * width + k)));
    }
  }
  return rows;
}

inline FloatRows float_rows(const std::vector<float>& values, int64_t width) {
  FloatRows rows(std::ssize(values) / width, width);
  for (int64_t i = 0; i < rows.rows(); ++i) {
    std::copy_n(&values[static_cast<size_t>(i * width)], width, rows.row(i));
  }
  return rows;
}

inline FloatRows float_rows(int64_t count, int64_t width, int64_t seed) {
  return float_rows(random_rows(count, width, seed), width);
}

}  // namespace emoe::worker::testing
