#include "worker/emoe/neuron_order.h"

#include <stdexcept>
#include <string>

#include <ATen/ATen.h>

namespace emoe::worker {
namespace {

at::Tensor reordered(const at::Tensor& tensor, int dim, const at::Tensor& order) {
  if (dim < 0) return tensor;
  if (tensor.size(dim) != order.numel()) {
    throw std::invalid_argument("a tensor of " + std::to_string(tensor.size(dim)) +
                                " neurons in a layer that has " + std::to_string(order.numel()));
  }
  return tensor.index_select(dim, order.to(tensor.device()));
}

}  // namespace

NeuronOrder::NeuronOrder(const Partition& partition)
    : forward_(at::tensor(partition.labels).argsort(/*stable=*/true)),
      inverse_(forward_.argsort()) {}

at::Tensor NeuronOrder::to_memory(const at::Tensor& tensor, int dim) const {
  return reordered(tensor, dim, forward_);
}

at::Tensor NeuronOrder::to_original(const at::Tensor& tensor, int dim) const {
  return reordered(tensor, dim, inverse_);
}

}  // namespace emoe::worker
