#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "worker/train/adamw_kernel.h"
#include "worker/train/flat_parameters.h"
#include "worker/train/train_options.h"

namespace emoe::worker {

// AdamW with decoupled weight decay (arXiv 1711.05101) over flat parameters, with the order of
// operations of torch.optim.AdamW and the clipping of torch.nn.utils.clip_grad_norm_.
class Adamw {
 public:
  Adamw(const AdamwOptions& options, const FlatParameters& parameters);

  // The factor clipping puts on gradients of this norm: min(1, max_grad_norm / (norm + 1e-6)).
  [[nodiscard]] double clip_factor(double norm) const;
  // Step `step` (0-based, for the bias correction) on the parameters' gradients times `factor`.
  void update(FlatParameters& parameters, int64_t step, double learning_rate, double factor);

  // Flat [size] buffers, for checkpoints; to be written to only by a restore.
  [[nodiscard]] at::Tensor& first_moments() { return first_; }
  [[nodiscard]] at::Tensor& second_moments() { return second_; }

 private:
  AdamwOptions options_;
  at::Tensor first_;
  at::Tensor second_;
};

// adamw_update() by tensor operations, as update() does it on devices that have no kernels;
// fp32 of equal length, equal to rounding.
void adamw_update_by_tensors(const at::Tensor& weights, const at::Tensor& first,
                             const at::Tensor& second, const at::Tensor& gradients,
                             const AdamwConstants& c);

}  // namespace emoe::worker
