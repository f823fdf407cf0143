#pragma once

#include <cstdint>
#include <span>

#include "worker/model/kernels/adamw_constants.h"

namespace emoe::worker {

// Weights, moments and gradients of equal length; element by element, in torch's order of
// operations.
void adamw_update(std::span<float> weights, std::span<float> first, std::span<float> second,
                  std::span<const float> gradients, const AdamwConstants& c);

// In double, in a fixed order; not finite exactly when some value is not.
[[nodiscard]] double sum_of_squares(std::span<const float> values);

}  // namespace emoe::worker
