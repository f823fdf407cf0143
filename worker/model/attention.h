#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// Causal attention inside segments. q [T, heads, d], k and v [T, kv_heads, d]; `lengths` are the
// segments' lengths, sum T. Segments of one length are one batched call. Returns [T, heads, d].
// Gradients by LibTorch's fused attention: it keeps q, k, v, the output and one number per head and
// token.
[[nodiscard]] at::Tensor segment_attention(const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v,
                                           const std::vector<int64_t>& lengths);

// The last q.size(0) of k.size(1) tokens look at themselves and all before them; no graph.
// q [T, heads, d], k and v [kv_heads, total, d]. Returns [T, heads, d].
[[nodiscard]] at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v);

}  // namespace emoe::worker
