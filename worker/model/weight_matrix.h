#pragma once

#include <cstdint>
#include <utility>

#include <ATen/core/Tensor.h>

namespace emoe::worker {

// A weight matrix W [out, in] as forward and backward passes use it. How its numbers are stored
// (dense, sharded over ranks, packed, quantised) is the implementation's business; activations come
// and go in their own dtype. The gradient of a trained matrix is not its business either.
// One thread at a time.
class WeightMatrix {
 public:
  virtual ~WeightMatrix() = default;
  // x [T, in] → x W^T [T, out], fresh, without a graph.
  [[nodiscard]] virtual at::Tensor product(const at::Tensor& x) const = 0;
  // sum [T, in] += dy W for dy [T, out], in place; an undefined `sum` is started.
  virtual void add_transposed_product(const at::Tensor& dy, at::Tensor& sum) const = 0;
  // [out, in] as it is stored, for kernels that read single rows; undefined where it is not stored
  // as one plain tensor.
  [[nodiscard]] virtual at::Tensor values() const = 0;
};

// One tensor in the dtype of the activations.
class DenseMatrix final : public WeightMatrix {
 public:
  explicit DenseMatrix(at::Tensor values) : values_(std::move(values)) {}
  [[nodiscard]] at::Tensor product(const at::Tensor& x) const override;
  void add_transposed_product(const at::Tensor& dy, at::Tensor& sum) const override;
  [[nodiscard]] at::Tensor values() const override { return values_.detach(); }

 private:
  // The tensor itself and not a detached view: in fp32 full tuning it is the trained parameter,
  // whose data FlatParameters moves.
  at::Tensor values_;
};

}  // namespace emoe::worker
