#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "worker/emoe/options.h"

namespace emoe::worker {

// A token's experts, decided from its scores (arXiv 2310.10908, section 3). No gradient.
struct Selection {
  at::Tensor mask;    // [T, N] bool, true where the expert is used
  at::Tensor chosen;  // [T, k'] int32 ascending; k' = k, or N - k for not_top
  at::Tensor
      margin;  // [T] fp32 |score of the last taken - score of the first left out|, inf if k = N
};

// Mean over each expert's channels of the pre-SiLU gate activations [T, d] → [T, N] fp32. Expert e
// is the block of channels [e * d / N, (e + 1) * d / N).
[[nodiscard]] at::Tensor expert_scores(const at::Tensor& gate, int64_t num_experts);

// top: the k largest; bottom: the k smallest; not_top: all but the k largest. Equal scores: the
// lower index is taken first. `details` off leaves `chosen` and `margin` undefined.
[[nodiscard]] Selection select_experts(const at::Tensor& scores, int64_t top_k, Selector selector,
                                       bool details);

}  // namespace emoe::worker
