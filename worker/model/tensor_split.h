#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include <ATen/core/Tensor.h>

#include "format/decoder_config.h"
#include "format/tensor_table.h"
#include "worker/comm/device_group.h"
#include "worker/model/decoder_layer.h"

namespace emoe::worker {

// How the T ranks of a group share each layer of a decoder (Megatron-LM, arXiv 1909.08053): a rank has
// equal parts of the heads and of the neurons, of a converted layer whole experts. Of q, k, v, gate
// and up these are rows, of o and down columns, so what o and down give is a part of a sum, which the
// group makes. A rank whose query heads read a key head that others read, too, has that one as
// they do. Embedding, head, norms and adapters are whole on every rank; of the adapters a pass uses
// the part beside its matrix.
//
// So what a backward pass gives an adapter's A and B is a part of the gradient, whose sum over the
// group it is; all other gradients are whole.
class TensorSplit {
 public:
  // Null or a group of one rank: everything is whole. Throws std::invalid_argument where the group does
  // not divide the heads, the neurons or the experts (0: none).
  TensorSplit(const DecoderConfig& config, int64_t experts, DeviceGroup* group);

  [[nodiscard]] bool whole() const { return ranks_ == 1; }
  // Null where everything is whole.
  [[nodiscard]] DeviceGroup* group() const { return whole() ? nullptr : group_; }

  // Of a tensor in memory order (see NeuronOrder), what this rank has: a view, or the tensor.
  [[nodiscard]] at::Tensor part(TensorRole role, const at::Tensor& tensor) const;
  // A bias behind a sum is added by one of the ranks.
  [[nodiscard]] bool has(TensorRole role) const;
  // The layer with its adapters cut to the parts beside this rank's matrices; with a graph to the whole
  // ones, where one is being made.
  [[nodiscard]] std::shared_ptr<const DecoderLayer> with_own_adapters(
      const std::shared_ptr<const DecoderLayer>& layer) const;

 private:
  // [begin, begin + size) of dimension `dim`.
  struct Range {
    int dim;
    int64_t begin;
    int64_t size;
  };
  [[nodiscard]] std::optional<Range> range(TensorRole role) const;

  const DecoderConfig& config_;
  DeviceGroup* group_;
  int64_t ranks_;
  int64_t index_;
};

// From what every rank of a group has alike to what each computes a part with: x itself. Its gradient is
// the sum of theirs. Without a group x.
[[nodiscard]] at::Tensor to_parts(const at::Tensor& x, DeviceGroup* group);
// The sum of the ranks' parts, in `part`'s dtype. Its gradient is that of each part. Without a group `part`.
[[nodiscard]] at::Tensor sum_of_parts(const at::Tensor& part, DeviceGroup* group);

}  // namespace emoe::worker
