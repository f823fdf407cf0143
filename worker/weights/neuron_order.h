#pragma once

#include <ATen/core/Tensor.h>

#include "worker/emoe/options.h"
#include "worker/model/llama.h"

namespace emoe::worker {

// A converted layer's neurons lie in memory sorted by expert; every file (checkpoint, adapter,
// export) has them in the base model's order. These two translate, for a parameter or anything of
// its shape (a gradient, an optimiser moment). A parameter without a permuted dimension comes back
// as it is (the same storage). They throw std::invalid_argument where `tensor` has not the
// parameter's shape or `emoe` has no partition for its layer.
[[nodiscard]] at::Tensor to_original_order(const Parameter& parameter, const at::Tensor& tensor,
                                           const EmoeOptions& emoe);
[[nodiscard]] at::Tensor to_memory_order(const Parameter& parameter, const at::Tensor& tensor,
                                         const EmoeOptions& emoe);

}  // namespace emoe::worker
