#pragma once

#include <cstdint>

#include "worker/model/kernels/block_product.h"

namespace emoe::worker {

// The vectors of one head, of the tokens of a row: token t's is at data + t * stride, contiguous.
template <typename T>
struct HeadRows {
  T* data;
  int64_t stride;
};

// Causal attention of one query head over one row of tokens. By blocks of queries and keys, of which
// only those that a query sees are computed; products, sums and softmax are fp32, what is
// multiplied is T (arXiv 2307.08691).
template <typename T>
struct AttentionHead {
  int64_t first = 0;  // query that is computed, and all behind it (forward only)
  int64_t length;     // of the row
  int64_t window;     // how many keys a query sees, its own token's the last; 0: all up to that
  int64_t size;       // of a head
  float scale;        // of q k^T
  HeadRows<const T> q, k, v;
  HeadRows<T> o;
  float* log_sums;   // [length] base-2 logarithm of each query's sum of 2^(score * log2 e)
  float* workspace;  // attention_workspace(size) floats

  // For the backward pass only, which reads `o` and `log_sums`.
  HeadRows<const T> d_o;
  HeadRows<T> d_q;
  float* d_k;  // [length, size] each: the gradients are added
  float* d_v;
};

// A block of scores, for all instruction sets: kAttentionKeys by kAttentionQueries.
inline constexpr int64_t kAttentionKeys = 256;
inline constexpr int64_t kAttentionQueries = 96;
inline constexpr int64_t kAttentionScores = kAttentionKeys * kAttentionQueries;
// Floats.
[[nodiscard]] inline int64_t attention_workspace(int64_t head_size) {
  return kProductWorkspace + 5 * kAttentionScores + kAttentionQueries * head_size;
}

// Compiled for one instruction set, on the calling thread. Sets differ in the rounding of their sums.
template <typename T>
struct AttentionKernel {
  void (*forward)(const AttentionHead<T>& head);
  void (*backward)(const AttentionHead<T>& head);
  // Rounds sums [length, size].
  void (*store)(const float* sums, const HeadRows<T>& rows, int64_t length, int64_t size);
};

struct AttentionKernelSet {
  AttentionKernel<float> of_float;
  const AttentionKernel<Bf16>* of_bf16;  // null where the processor does not multiply bf16
};

// Those that this processor can run, the plainest first; null behind the last one.
[[nodiscard]] const AttentionKernelSet* supported_attention_kernels(int index);
// The last of them.
[[nodiscard]] const AttentionKernelSet& attention_kernels();

}  // namespace emoe::worker
