#pragma once

#include <ATen/core/Tensor.h>

#include "worker/emoe/options.h"

namespace emoe::worker {

// Where the neurons of a converted layer lie: in memory sorted by expert, so that an expert is one
// block; in every file (base, checkpoint, adapter, export) in the base model's order. Immutable.
//
// to_memory() and to_original() copy `tensor`, whose dimension `dim` counts the layer's d_ff
// neurons, on its own device; with dim -1 (no such dimension) they return it as it is.
// std::invalid_argument where that dimension has another size.
class NeuronOrder {
 public:
  explicit NeuronOrder(const Partition& partition);

  // [d_ff] int64: neuron j in memory is neuron forward()[j] of the base. Sorted by expert, and
  // inside an expert as in the base.
  [[nodiscard]] const at::Tensor& forward() const { return forward_; }
  [[nodiscard]] at::Tensor to_memory(const at::Tensor& tensor, int dim) const;
  [[nodiscard]] at::Tensor to_original(const at::Tensor& tensor, int dim) const;

 private:
  at::Tensor forward_;
  at::Tensor inverse_;  // of forward_
};

}  // namespace emoe::worker
