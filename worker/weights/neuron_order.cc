#include "worker/weights/neuron_order.h"

#include <stdexcept>

#include <ATen/ATen.h>

namespace emoe::worker {
namespace {

// [d_ff] int64 on the tensor's device: memory channel j holds original channel permutation[j].
at::Tensor permutation_of(const Parameter& parameter, const at::Tensor& tensor,
                          const EmoeOptions& emoe) {
  if (tensor.sizes() != parameter.tensor.sizes()) {
    throw std::invalid_argument(parameter.name + ": tensor of another shape than the parameter");
  }
  const auto found = emoe.partitions.find(parameter.layer);
  if (found == emoe.partitions.end()) {
    throw std::invalid_argument(parameter.name + ": no partition for its layer");
  }
  const auto permutation = found->second.permutation();
  if (static_cast<int64_t>(permutation.size()) != tensor.size(parameter.permuted_dim)) {
    throw std::invalid_argument(parameter.name + ": the partition has another number of neurons");
  }
  return at::tensor(permutation, at::kLong).to(tensor.device());
}

}  // namespace

at::Tensor to_original_order(const Parameter& parameter, const at::Tensor& tensor,
                             const EmoeOptions& emoe) {
  if (parameter.permuted_dim < 0) return tensor;
  const at::NoGradGuard no_grad;
  const at::Tensor permutation = permutation_of(parameter, tensor, emoe);
  at::Tensor original = at::empty_like(tensor, at::MemoryFormat::Contiguous);
  original.index_copy_(parameter.permuted_dim, permutation, tensor.detach());
  return original;
}

at::Tensor to_memory_order(const Parameter& parameter, const at::Tensor& tensor,
                           const EmoeOptions& emoe) {
  if (parameter.permuted_dim < 0) return tensor;
  const at::NoGradGuard no_grad;
  const at::Tensor permutation = permutation_of(parameter, tensor, emoe);
  return tensor.detach().index_select(parameter.permuted_dim, permutation);
}

}  // namespace emoe::worker
