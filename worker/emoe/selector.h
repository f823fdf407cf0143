#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "worker/emoe/options.h"

namespace emoe::worker {

// The experts of T tokens, decided from their scores (arXiv 2310.10908, section 3). No gradient.
struct Selection {
  at::Tensor mask;    // [T, N] bool, true where the expert is used
  at::Tensor scores;  // [T, N] fp32
};

// std::invalid_argument where N does not divide the layer's d_ff or top_k is not in 1 … N.
void check_routing(const ExpertRouting& routing, int64_t d_ff);

// From scores [T, N]: top: the k largest; bottom: the k smallest; not_top: all but the k largest.
// Equal scores: the lower index is taken first. Errors: those of check_routing().
[[nodiscard]] at::Tensor expert_mask(const at::Tensor& scores, const ExpertRouting& routing);

// The experts of a mask [T, N] as indices [T, k'] int32, ascending; k' = k, or N - k for not_top.
[[nodiscard]] at::Tensor expert_indices(const at::Tensor& mask);

}  // namespace emoe::worker
