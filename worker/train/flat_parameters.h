#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/model.h"

namespace emoe::worker {

// All trainable tensors of a model as views into one flat fp32 buffer, and their gradients into
// another: one loop updates them, one all-reduce sums them. The gradient buffer has `tail` more
// floats at its end for what else a step's all-reduce carries.
//
// Backward passes add into Parameter::tensor.grad() in place, as autograd does where a gradient is
// already set and no graph of the gradient is wanted.
class FlatParameters {
 public:
  struct Slice {
    std::string name;
    int64_t offset = 0;
    int64_t size = 0;
    bool weight_decay = true;
  };

  // Moves the tensors' data (values unchanged), unless it lies in one FlatBuffer already, and sets their gradients to zeroed views. Throws
  // std::invalid_argument when there is none, or one is not fp32.
  FlatParameters(std::vector<Parameter>& parameters, int64_t tail);

  [[nodiscard]] const std::vector<Slice>& slices() const { return slices_; }
  // Each rank has a part of the parameters, and of their gradients the sum over the ranks.
  [[nodiscard]] bool sharded() const { return parameters_.front().shard.has_value(); }
  // The ranks that share each layer have other parts of the parameters (PartOfTensor).
  [[nodiscard]] bool in_parts() const { return parameters_.front().part != nullptr; }
  // No rank has all of them.
  [[nodiscard]] bool spread() const { return sharded() || in_parts(); }
  [[nodiscard]] int64_t size() const { return size_; }  // floats, alignment gaps included
  [[nodiscard]] const at::Tensor& weights() const { return weights_; }          // [size]
  [[nodiscard]] at::Tensor gradients() const;                                   // [size]
  [[nodiscard]] at::Tensor tail() const;                                        // [tail]
  [[nodiscard]] const at::Tensor& reduce_buffer() const { return gradients_; }  // [size + tail]
  // The part of a flat [size] buffer that belongs to parameter i, in the parameter's shape.
  [[nodiscard]] at::Tensor view(const at::Tensor& flat, size_t i) const;

  // The norm of the gradients, without those that another rank counts.
  [[nodiscard]] double norm() const;
  void zero_gradients();
  // That backward passes really went into the buffer: a bug of the engine otherwise.
  void check_gradients_in_place() const;
  // Number of the first parameter with a value that is not finite in the flat [size] buffer.
  [[nodiscard]] std::optional<int64_t> first_non_finite(const at::Tensor& flat) const;

 private:
  void gather_weights(const at::TensorOptions& options);

  std::vector<Parameter>& parameters_;
  std::vector<Slice> slices_;
  int64_t size_ = 0;
  at::Tensor weights_;
  at::Tensor gradients_;
};

// Euclidean norm of a flat fp32 buffer: double sums over blocks of fixed size, so the same at any
// number of threads. Not finite exactly when some value is not.
[[nodiscard]] double norm_of(const at::Tensor& flat);
// The same by tensor operations, as norm_of does on devices that have no kernels: other blocks,
// so equal to rounding.
[[nodiscard]] double norm_by_tensors(const at::Tensor& flat);

}  // namespace emoe::worker
