#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// Cosine and sine of each token's rotary angles, fp32, [T, head_dim / 2] (the two halves of a head
// turn by the same angles: Hugging Face's rotate_half layout).
struct RotaryTable {
  at::Tensor cosine;
  at::Tensor sine;
};

// `positions` [T] int64 on the device where the table is wanted. Frequencies 1 / theta^(2i/d) in
// fp32, as transformers computes them.
[[nodiscard]] RotaryTable rotary_table(const at::Tensor& positions, int64_t head_dim, double theta);

// Turns x [T, heads, head_dim]; fp32 inside, rounded once. Saves nothing but the table.
[[nodiscard]] at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table);

}  // namespace emoe::worker
