#pragma once

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// oneDNN's products with a weight matrix, fp32 or bf16 on the CPU, through the operators that
// torch.compile uses. It compiles a kernel for each shape, which small products would not repay.

// Whether LibTorch has oneDNN, and the processor multiplies this type.
[[nodiscard]] bool has_onednn(at::ScalarType type);

// x [T, in] → x w^T [T, out] in x's dtype, plus `sum` [T, out] where that is defined. w [out, in] has
// a stride of 1, or is what packed_for_onednn() gave.
[[nodiscard]] at::Tensor onednn_product(const at::Tensor& x, const at::Tensor& w,
                                        const at::Tensor& sum);

// A copy of w [out, in] in the order in which onednn_product() reads it, which it else makes in every
// call; for nothing but that function. The sums of its products may be cut elsewhere, so bits may differ.
[[nodiscard]] at::Tensor packed_for_onednn(const at::Tensor& w);

}  // namespace emoe::worker
