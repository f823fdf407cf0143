#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/batch.h"

namespace emoe::worker {

// segment_attention() by kernels/attention_kernel.h: on the CPU, in fp32 and, where the processor
// multiplies it, bf16. Only the blocks between a window and the diagonal of each segment are computed, and keys and
// values are not repeated for the heads that share them. Threads share the segments and key heads;
// the bits do not depend on how many there are.
[[nodiscard]] bool has_own_attention(const at::Tensor& q);
[[nodiscard]] at::Tensor own_attention(const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v, const std::vector<int64_t>& lengths,
                                       int64_t window);

// The same of a batch whose segments share tokens, q, k, v being those of its T tokens, without a
// graph: each token's output is computed once, in the segment where it comes up first. Where k and v
// have more tokens than q, the first of them stand before every segment.
[[nodiscard]] at::Tensor own_shared_attention(const at::Tensor& q, const at::Tensor& k,
                                              const at::Tensor& v, const PackedBatch& batch,
                                              int64_t window);

}  // namespace emoe::worker
