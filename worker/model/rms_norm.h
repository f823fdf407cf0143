#pragma once

#include <ATen/core/Tensor.h>

#include "worker/model/linear.h"

namespace emoe::worker {

// y = w * round(x / sqrt(mean(x^2) + eps)), [T, h]. The inside is fp32, and is rounded to x's dtype
// before the product with w, in the order of transformers' LlamaRMSNorm. Saves x and one fp32
// number per token.
[[nodiscard]] at::Tensor rms_norm(const at::Tensor& x, const Weight& weight, double epsilon);

// sum = x + residual [T, h] and its rms_norm(): what stands between two blocks of a layer. One pass over
// memory where the device has kernels, the two operations elsewhere.
struct SumAndNorm {
  at::Tensor sum;
  at::Tensor normed;
};
[[nodiscard]] SumAndNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                      const Weight& weight, double epsilon);

}  // namespace emoe::worker
