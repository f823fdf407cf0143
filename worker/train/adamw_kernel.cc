// Compiled with -O3 and without contraction to fused multiply-add: the loops become vector code,
// and the results stay those of separate operations on every machine.
#include "worker/train/adamw_kernel.h"

#include <array>
#include <cmath>

namespace emoe::worker {

void adamw_update(std::span<float> weights, std::span<float> first, std::span<float> second,
                  std::span<const float> gradients, const AdamwConstants& c) {
  float* __restrict w = weights.data();
  float* __restrict m = first.data();
  float* __restrict v = second.data();
  const float* __restrict g = gradients.data();
  const size_t n = weights.size();
  // torch's lerp takes the end nearer to the result, for accuracy.
  const bool near_first = c.one_minus_beta1 < 0.5F;
  const float beta1 = 1.0F - c.one_minus_beta1;
  for (size_t i = 0; i < n; ++i) {
    const float gi = g[i] * c.gradient_scale;
    const float difference = gi - m[i];
    const float mi = near_first ? m[i] + c.one_minus_beta1 * difference : gi - difference * beta1;
    const float vi = v[i] * c.beta2 + (c.one_minus_beta2 * gi) * gi;
    const float denominator = std::sqrt(vi) / c.sqrt_correction2 + c.epsilon;
    w[i] = w[i] * c.weight_factor + (-c.step_size * mi) / denominator;
    m[i] = mi;
    v[i] = vi;
  }
}

double sum_of_squares(std::span<const float> values) {
  constexpr size_t kLanes = 8;  // independent sums: the additions need not wait for each other
  std::array<double, kLanes> sums{};
  const size_t whole = values.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const double x = values[i + lane];
      sums[lane] += x * x;
    }
  }
  for (size_t i = whole; i < values.size(); ++i) {
    const double x = values[i];
    sums[i - whole] += x * x;
  }
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace emoe::worker
