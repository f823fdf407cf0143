#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

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
// group it is. In full tuning a rank trains its parts, and what is whole as all others do, from the same
// gradient; where each of them sees a part of that (norms of heads, key heads that several read) the
// backward pass adds the parts (own_layer()).
class TensorSplit {
 public:
  // Null or a group of one rank: everything is whole. Throws std::invalid_argument where the group does
  // not divide the heads, the neurons or the experts (0: none). With `full` collective over the group.
  TensorSplit(const DecoderConfig& config, int64_t experts, DeviceGroup* group, bool full = false);

  [[nodiscard]] bool whole() const { return ranks_ == 1; }
  // Null where everything is whole.
  [[nodiscard]] DeviceGroup* group() const { return whole() ? nullptr : group_; }

  // Of a tensor in memory order (see NeuronOrder), what this rank has: a view, or the tensor.
  [[nodiscard]] at::Tensor part(TensorRole role, const at::Tensor& tensor) const;
  // A bias behind a sum is added, and trained, by one of the ranks.
  [[nodiscard]] bool has(TensorRole role) const;
  // The shape of this rank's part; [0] of what it does not have.
  [[nodiscard]] std::vector<int64_t> shape_of_part(const TensorSpec& spec) const;
  // The way back from part(): what the ranks have, put together, on each of them. Collective.
  [[nodiscard]] at::Tensor whole(const TensorSpec& spec, const at::Tensor& part) const;
  // Whether no rank before this one has the same elements of a tensor.
  [[nodiscard]] bool is_first_with(TensorRole role) const;
  // The layer as a pass computes with it: adapters cut to the parts beside this rank's matrices, with a
  // graph to the whole ones, where one is being made; masters of which the ranks see a part of the
  // gradient stand behind the sum of the parts.
  [[nodiscard]] std::shared_ptr<const DecoderLayer> own_layer(
      const std::shared_ptr<const DecoderLayer>& layer) const;

 private:
  // [begin, begin + size) of dimension `dim`.
  struct Range {
    int dim;
    int64_t begin;
    int64_t size;
  };
  [[nodiscard]] std::optional<Range> range(TensorRole role) const;
  [[nodiscard]] bool is_of_key_heads(TensorRole role) const;
  // So many ranks read the same key head.
  [[nodiscard]] int64_t ranks_of_a_key_head() const;
  // The ranks whose gradients of a trained tensor add up; null: each has all of it.
  [[nodiscard]] DeviceGroup* ranks_to_add(TensorRole role) const;

  const DecoderConfig& config_;
  DeviceGroup* group_;
  int64_t ranks_;
  int64_t index_;
  // In full tuning the ranks that read this one's key head, where there are others.
  std::unique_ptr<DeviceGroup> key_head_;
};

// From what every rank of a group has alike to what each computes a part with: x itself. Its gradient is
// the sum of theirs. Without a group x.
[[nodiscard]] at::Tensor to_parts(const at::Tensor& x, DeviceGroup* group);
// The sum of the ranks' parts, in `part`'s dtype. Its gradient is that of each part. Without a group `part`.
[[nodiscard]] at::Tensor sum_of_parts(const at::Tensor& part, DeviceGroup* group);

}  // namespace emoe::worker
