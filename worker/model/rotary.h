#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "format/rope_scaling.h"

namespace emoe::worker {

// Cosine and sine of each token's rotary angles, fp32, [T, head_dim / 2] (the two halves of a head
// turn by the same angles: Hugging Face's rotate_half layout).
struct RotaryTable {
  at::Tensor cosine;
  at::Tensor sine;
};

// Angles per position [head_dim / 2], fp32 on the CPU: 1 / theta^(2i/d), scaled as `rope` says, each
// operation in fp32 as transformers has them. (llama3: Llama 3.1's, arXiv 2407.21783.)
[[nodiscard]] at::Tensor rotary_frequencies(int64_t head_dim, const Rope& rope);

// `positions` [T] int64 and the frequencies on the device where the table is wanted.
[[nodiscard]] RotaryTable rotary_table(const at::Tensor& positions, const at::Tensor& frequencies);

// Turns x [T, heads, head_dim]; fp32 inside, rounded once. Saves nothing but the table.
[[nodiscard]] at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table);

}  // namespace emoe::worker
