#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// Whether flash attention can compute with q [T, heads, d]: half precision on another device than a CPU,
// d a multiple of 8 up to 256.
[[nodiscard]] bool has_flash_attention(const at::Tensor& q);

// segment_attention() in one call for all segments, LibTorch's flash attention (arXiv 2307.08691): nothing
// is copied for heads that share keys and values. `starts` [S + 1] int32 on q's device: where the segments
// begin, and T; `longest` is the length of the longest. Its backward pass adds in a fixed order.
[[nodiscard]] at::Tensor flash_attention(const at::Tensor& q, const at::Tensor& k,
                                         const at::Tensor& v, const at::Tensor& starts,
                                         int64_t longest, int64_t window);

// Whether efficient_attention() can compute with q: fp32 on another device than a CPU, d a multiple of 8.
[[nodiscard]] bool has_efficient_attention(const at::Tensor& q);

// The same for fp32 and without a window, LibTorch's memory-efficient attention (arXiv 2112.05682): keeps q, k, v, the
// output and a number per head and token. Its backward pass does not split the keys, so it adds in a fixed order.
[[nodiscard]] at::Tensor efficient_attention(const at::Tensor& q, const at::Tensor& k,
                                             const at::Tensor& v, const at::Tensor& starts,
                                             int64_t longest);

// The starts of segments of these lengths, on the host: [S + 1].
[[nodiscard]] std::vector<int32_t> segment_starts(const std::vector<int64_t>& lengths);

}  // namespace emoe::worker
