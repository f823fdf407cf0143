#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "worker/comm/device_group.h"
#include "worker/model/decoder_layer.h"
#include "worker/model/model.h"

namespace emoe::worker {

// Holds a decoder's weights, layer by layer: all in memory, read when they are needed, or sharded over
// ranks. A pass asks in the order of its computation, embedding first, so that a store that has to
// fetch a layer can do it beside the one before. A backward pass holds the matrices that it needs by
// itself.
class WeightStore {
 public:
  virtual ~WeightStore() = default;
  // A weight outside the layers: embedding, final_norm or head (of a tied model the embedding).
  [[nodiscard]] virtual Weight outer(TensorRole role) = 0;
  // Layer `index`, complete and on its device for as long as the pointer is held.
  [[nodiscard]] virtual std::shared_ptr<const DecoderLayer> acquire(int64_t index) = 0;
  // See Model::passes_are_collective().
  [[nodiscard]] virtual bool is_collective() const { return tensor_group() != nullptr; }
  // The ranks that share each layer (see TensorSplit); null: this one has all of it.
  [[nodiscard]] virtual DeviceGroup* tensor_group() const { return nullptr; }
  // See Model.
  [[nodiscard]] virtual std::vector<Parameter>& parameters() = 0;
  virtual void parameters_changed() = 0;
  // See Model::pack_weights(); with `experts` the feed-forward part of converted layers too.
  [[nodiscard]] virtual bool can_pack() const { return false; }
  virtual void pack_weights(bool /*experts*/) {}
};

// All weights in memory: converted to the dtype and device of the computation, permuted where a
// layer is converted, with what is trainable marked so. Throws std::invalid_argument for options
// that do not fit together or to the model, and what `source` throws.
// With a group `tensor`, which outlives the store, only this rank's part of each layer.
[[nodiscard]] std::unique_ptr<WeightStore> make_resident_store(const ModelOptions& options,
                                                               const WeightSource& source,
                                                               DeviceGroup* tensor = nullptr);

// The same, but of the frozen matrices (of the linears, of embedding and head) each rank of `group` keeps
// an equal part only, and reads only that of what `source` maps. The ranks gather a layer while the one
// before it computes, in forward and backward passes; two are in memory at a time. Numbers are bit for
// bit those of the resident store. Every rank must make the same passes. `group` must outlive the
// store; passes throw CommunicationError.
//
// In full tuning the ranks share all weights, as their fp32 masters (Parameter::shard), and so
// gradients and moments. Behind each layer of a backward pass its gradients are summed over the ranks,
// each of which adds its part to what its parameters have: equal to the resident store's after the
// step's all-reduce, up to rounding. (ZeRO's third stage: arXiv 1910.02054.)
//
// With a group `tensor` all of this is of this rank's part of each layer; the ranks of `group` have the
// same one.
[[nodiscard]] std::unique_ptr<WeightStore> make_sharded_store(const ModelOptions& options,
                                                              const WeightSource& source,
                                                              DeviceGroup& group,
                                                              DeviceGroup* tensor = nullptr);

// A tensor as a streamed model computes with it.
struct StreamedTensor {
  at::Tensor values;  // in the dtype of the computation, on the CPU
  Lora lora;          // of a linear with an adapter beside it
};
using TensorReader = std::function<StreamedTensor(const TensorSpec&)>;

// For a dense model in the base's neuron order: a layer is read when a pass comes to it and forgotten
// behind it, so there is memory for one layer and the embeddings only. `read` is called anew at
// every pass. `parameters` are the store's: the adapters that `read` gives, where there are any.
[[nodiscard]] std::unique_ptr<WeightStore> make_streamed_store(
    const DecoderConfig& config, TensorReader read, std::vector<Parameter> parameters = {});

}  // namespace emoe::worker
