#include "worker/emoe/cost_scan.h"

#include <cstring>

#include "worker/emoe/index.h"

namespace emoe::worker {
namespace {

constexpr int64_t kAtOnce = 16;
typedef int32_t Costs __attribute__((vector_size(kAtOnce * sizeof(int32_t))));
typedef float Floats __attribute__((vector_size(kAtOnce * sizeof(float))));

[[gnu::always_inline]] inline void estimate_all(const Products& products, const float* squares,
                                                float unit, std::span<int32_t> costs) {
  const auto count = std::ssize(costs);
  const float* scales = products.scales.data();
  int64_t n = 0;
  for (; n + kAtOnce <= count; n += kAtOnce) {
    Costs product;
    Floats scale;
    Floats square;
    std::memcpy(&product, &products.products[at(n)], sizeof product);
    std::memcpy(&scale, scales + n, sizeof scale);
    std::memcpy(&square, squares + n, sizeof square);
    const Floats dot = __builtin_convertvector(product, Floats) * (products.scale * scale);
    const Costs cost = __builtin_convertvector((square - 2.0F * dot) * unit, Costs);
    std::memcpy(&costs[at(n)], &cost, sizeof cost);
  }
  for (; n < count; ++n) {
    const float dot = static_cast<float>(products.products[at(n)]) * (products.scale * scales[n]);
    costs[at(n)] = static_cast<int32_t>((squares[n] - 2.0F * dot) * unit);
  }
}

[[gnu::always_inline]] inline int32_t count_all(std::span<const int32_t> costs, const float* levels,
                                                const float* slopes, float slack, float most) {
  const auto clusters = static_cast<int32_t>(costs.size());
  Costs counts = {};
  int32_t c = 0;
  for (; c + kAtOnce <= clusters; c += kAtOnce) {
    Costs cost;
    Floats level;
    Floats slope;
    std::memcpy(&cost, &costs[at(c)], sizeof cost);
    std::memcpy(&level, levels + c, sizeof level);
    std::memcpy(&slope, slopes + c, sizeof slope);
    counts += __builtin_convertvector(cost, Floats) + level - slack * slope <= most;
  }
  int32_t count = 0;
  for (int32_t lane = 0; lane < kAtOnce; ++lane) count -= counts[lane];
  for (; c < clusters; ++c) {
    count += static_cast<float>(costs[at(c)]) + levels[c] - slack * slopes[c] <= most ? 1 : 0;
  }
  return count;
}

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512vl")]] void estimate_avx512(const Products& products,
                                                         const float* squares, float unit,
                                                         std::span<int32_t> costs) {
  estimate_all(products, squares, unit, costs);
}
[[gnu::target("avx2")]] void estimate_avx2(const Products& products, const float* squares,
                                           float unit, std::span<int32_t> costs) {
  estimate_all(products, squares, unit, costs);
}
[[gnu::target("avx512f,avx512vl")]] int32_t count_avx512(std::span<const int32_t> costs,
                                                         const float* levels, const float* slopes,
                                                         float slack, float most) {
  return count_all(costs, levels, slopes, slack, most);
}
[[gnu::target("avx2")]] int32_t count_avx2(std::span<const int32_t> costs, const float* levels,
                                           const float* slopes, float slack, float most) {
  return count_all(costs, levels, slopes, slack, most);
}
#endif

}  // namespace

void estimate_costs(const Products& products, std::span<const float> squares, float unit,
                    std::span<int32_t> costs) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl")) {
    return estimate_avx512(products, squares.data(), unit, costs);
  }
  if (__builtin_cpu_supports("avx2")) {
    return estimate_avx2(products, squares.data(), unit, costs);
  }
#endif
  estimate_all(products, squares.data(), unit, costs);
}

int32_t count_below(std::span<const int32_t> costs, std::span<const float> levels,
                    std::span<const float> slopes, float slack, float most) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl")) {
    return count_avx512(costs, levels.data(), slopes.data(), slack, most);
  }
  if (__builtin_cpu_supports("avx2")) {
    return count_avx2(costs, levels.data(), slopes.data(), slack, most);
  }
#endif
  return count_all(costs, levels.data(), slopes.data(), slack, most);
}

}  // namespace emoe::worker
