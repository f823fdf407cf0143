#pragma once

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// The products of adapters: of rows x [T, n] in any dtype and r lines [r, n] fp32, r small. Computed
// in fp32 without an fp32 copy of x. On the CPU the bits depend neither on the other rows nor on the
// number of threads. No graph.

// x lines^T [T, r] fp32.
[[nodiscard]] at::Tensor low_product(const at::Tensor& x, const at::Tensor& lines);
// x += low lines for low [T, r] fp32, in place, rounded once; x contiguous.
void add_low_product(at::Tensor& x, const at::Tensor& low, const at::Tensor& lines);
// low^T x [r, n] fp32.
[[nodiscard]] at::Tensor low_gradient(const at::Tensor& low, const at::Tensor& x);

}  // namespace emoe::worker
