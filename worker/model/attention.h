#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/batch.h"

namespace emoe::worker {

// The segments of one forward pass; lengths of them alone will do.
struct Segments {
  Segments(std::vector<int64_t> of, at::Tensor begin = {})  // NOLINT(google-explicit-constructor)
      : lengths(std::move(of)), starts(std::move(begin)) {}
  std::vector<int64_t> lengths;  // [S], sum T
  // [S + 1] int32 on the device, where each begins, and T: what is not made again for every layer.
  at::Tensor starts;
};

// Causal attention inside segments. q [T, heads, d], k and v [T, kv_heads, d]; each token sees `window` tokens, itself and those before it, or with 0 all
// of its segment up to itself. Returns [T, heads, d]. Keeps q, k, v, the output and one number per head
// and token for the gradients. By our own blocks where there are kernels for them, on a GPU by flash
// attention in half precision and by memory-efficient attention in fp32, else by LibTorch's fused attention.
[[nodiscard]] at::Tensor segment_attention(const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v, const Segments& segments,
                                           int64_t window);

// The last q.size(0) of k.size(1) tokens look at themselves and those before them, as above; no graph.
// q [T, heads, d], k and v [kv_heads, total, d]. Returns [T, heads, d].
[[nodiscard]] at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, int64_t window);

// segment_attention() of a batch whose segments share tokens, without a graph and without making the
// segments whole: q, k, v and what is returned are of its T tokens. k and v may begin with tokens that
// q has not: those stand before every segment. Only where has_shared_attention().
[[nodiscard]] bool has_shared_attention(const at::Tensor& q);
[[nodiscard]] at::Tensor shared_attention(const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const PackedBatch& batch,
                                          int64_t window);

// segment_attention() of segments before each of which stand the same tokens: those that k and v begin
// with and q has not; no graph.
[[nodiscard]] at::Tensor continued_attention(const at::Tensor& q, const at::Tensor& k,
                                             const at::Tensor& v,
                                             const std::vector<int64_t>& lengths, int64_t window);

}  // namespace emoe::worker
