#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// The P pairs (expert, token) of one pass, sorted by expert and then by token: the rows of what the
// chosen experts compute.
struct ExpertTokens {
  std::vector<int32_t> tokens;  // [P]
  std::vector<int64_t> begin;   // [N + 1]: expert e has the rows begin[e] … begin[e + 1]

  // Of a mask [T, N] bool on the CPU.
  explicit ExpertTokens(const at::Tensor& mask);
  [[nodiscard]] at::Tensor expert_of_rows() const;  // [P] int64
  [[nodiscard]] int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  [[nodiscard]] int64_t experts() const { return static_cast<int64_t>(begin.size()) - 1; }
};

// The products of a layer's experts, each with its own tokens only. Sums and results are fp32, on the
// CPU; what is multiplied may be bf16. The bits of a row depend neither on the other rows nor on the
// number of threads. A matrix w [d, n] has a row for each of the d neurons in block
// order, E = d / N for each expert; gate and up are such matrices as they are, down is as its
// transpose (any strides of which one is 1 will do).

// [P, E]: row p holds the activations x[token] w_e^T; added to `out` where that is defined.
void experts_from_tokens(const ExpertTokens& chosen, const at::Tensor& x, const at::Tensor& w,
                         at::Tensor& out);
// y [T, n] += for every row p: activations[p] w_e, into its token's row.
void tokens_from_experts(const ExpertTokens& chosen, const at::Tensor& activations,
                         const at::Tensor& w, at::Tensor& y);
// The same for two matrices at once, rows [P, 2 E]: y += the first E of row p times w_e and the other E
// times behind_e. The sums of a tile, which are long to fetch, serve twice as many products.
void tokens_from_expert_pairs(const ExpertTokens& chosen, const at::Tensor& activations,
                              const at::Tensor& w, const at::Tensor& behind, at::Tensor& y);
// [d, n]: the gradient of w for the products above, the sum over the expert's rows p of
// left[p]^T right[token], left [P, E] and right [T, n] fp32. Rows of experts without a token are 0.
[[nodiscard]] at::Tensor expert_weight_gradient(const ExpertTokens& chosen, const at::Tensor& left,
                                                const at::Tensor& right);

}  // namespace emoe::worker
