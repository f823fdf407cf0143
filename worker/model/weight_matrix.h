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

// A frozen matrix on the CPU, where has_onednn(): once for each direction in the order in which oneDNN
// reads it. Twice the memory of one tensor, and no product brings its weights into that order anew. As
// a stored tensor it is gone: values() is undefined.
class PackedMatrix final : public WeightMatrix {
 public:
  explicit PackedMatrix(const at::Tensor& values);  // [out, in] fp32 or bf16, which it copies
  [[nodiscard]] at::Tensor product(const at::Tensor& x) const override;
  void add_transposed_product(const at::Tensor& dy, at::Tensor& sum) const override;
  [[nodiscard]] at::Tensor values() const override { return {}; }

 private:
  at::Tensor upright_;  // W
  at::Tensor turned_;   // W^T
};

}  // namespace emoe::worker
