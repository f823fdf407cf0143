#pragma once

#include <ATen/core/Tensor.h>

#include "worker/model/kernels/row_kernels.h"

namespace emoe::worker {

// Calls loops(kernels) with the RowKernels of x's elements where there are any: on the CPU, for fp32
// and bf16. False, and nothing is called, where there are none.
template <typename Loops>
[[nodiscard]] bool with_row_kernels(const at::Tensor& x, const Loops& loops) {
  if (!x.is_cpu()) return false;
  if (x.scalar_type() == at::kFloat) {
    loops(row_kernels<float>());
    return true;
  }
  if (x.scalar_type() == at::kBFloat16) {
    loops(row_kernels<Bf16>());
    return true;
  }
  return false;
}

}  // namespace emoe::worker
