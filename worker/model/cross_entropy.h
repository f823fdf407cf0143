#pragma once

#include <ATen/core/Tensor.h>

#include "worker/model/linear.h"

namespace emoe::worker {

// Sum over the rows of weights * cross-entropy(hidden W^T, targets): a scalar, fp32 (summed in
// double). hidden [M, h], targets [M] int64, weights [M] fp32, head [vocab, h]. Softmax in fp32.
// The logits exist only for a chunk of rows at a time: the gradient of hidden, and of a trainable
// head, is made in the same pass and kept instead of them.
[[nodiscard]] at::Tensor linear_cross_entropy(const at::Tensor& hidden, const Weight& head,
                                              const at::Tensor& targets, const at::Tensor& weights);

// Cross-entropy of each row, [M] fp32, no graph.
[[nodiscard]] at::Tensor linear_cross_entropies(const at::Tensor& hidden, const Weight& head,
                                                const at::Tensor& targets);

}  // namespace emoe::worker
