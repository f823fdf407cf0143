#pragma once

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// The dense matrix products of forward and backward passes, without a graph, by whatever is fastest
// for the dtype on this processor. The choice depends on processor and shapes alone, never on a
// measurement: the same run gives the same bits. w [out, in]; activations contiguous.

// x [T, in] → x w^T [T, out], in x's dtype.
[[nodiscard]] at::Tensor product(const at::Tensor& x, const at::Tensor& w);
// dy [T, out] → dy w [T, in].
[[nodiscard]] at::Tensor transposed_product(const at::Tensor& dy, const at::Tensor& w);
// sum [T, in] += dy w, perhaps as a new tensor; an undefined `sum` is started.
void add_transposed_product(const at::Tensor& dy, const at::Tensor& w, at::Tensor& sum);
// dy^T x [out, in] fp32.
[[nodiscard]] at::Tensor weight_gradient(const at::Tensor& dy, const at::Tensor& x);

// sum [out, in] fp32 += dy^T x; in one pass over it where adds_weight_gradients(): of half precision on a GPU.
void add_weight_gradient(const at::Tensor& dy, const at::Tensor& x, at::Tensor& sum);
[[nodiscard]] bool adds_weight_gradients(const at::Tensor& x);

// Whether bf16 on this device is to be computed in fp32 and rounded, because the processor does not
// multiply it and every library is many times slower then.
[[nodiscard]] bool widens_halves(const at::Tensor& x);

}  // namespace emoe::worker
