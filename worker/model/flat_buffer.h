#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// One fp32 buffer in which trained tensors lie one after the other, each from a cache line on. Weights are read
// straight into it, so that there is never a second copy of them (see FlatParameters).
class FlatBuffer {
 public:
  // What a tensor of so many elements takes of it, in floats.
  [[nodiscard]] static int64_t padded(int64_t elements);

  // Zeros.
  FlatBuffer(int64_t floats, at::Device device);
  // The next tensor of it, without a graph. All together must fit.
  [[nodiscard]] at::Tensor take(at::IntArrayRef sizes);

  // The buffer under tensors that take() gave, in this order, if they fill one from its beginning to its end: [sum
  // of padded()]; undefined otherwise.
  [[nodiscard]] static at::Tensor under(const std::vector<at::Tensor>& tensors);

 private:
  at::Tensor all_;
  int64_t taken_ = 0;
};

}  // namespace emoe::worker
