#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "worker/model/decoder_layer.h"
#include "worker/model/model.h"

namespace emoe::worker {

// Holds a decoder's weights, layer by layer: all in memory, read when they are needed, or (one day)
// sharded over ranks. A backward pass holds the matrices that it needs by itself.
class WeightStore {
 public:
  virtual ~WeightStore() = default;
  // The weights outside the layers; they stay as long as the store.
  [[nodiscard]] virtual const OuterWeights& outer() const = 0;
  // Layer `index`, complete and on its device for as long as the pointer is held.
  [[nodiscard]] virtual std::shared_ptr<const DecoderLayer> acquire(int64_t index) = 0;
  // Layer `index` is acquired next: a store that has to fetch it may begin.
  virtual void prefetch(int64_t index) = 0;
  // See Model.
  [[nodiscard]] virtual std::vector<Parameter>& parameters() = 0;
  virtual void parameters_changed() = 0;
};

// All weights in memory: converted to the dtype and device of the computation, permuted where a
// layer is converted, with what is trainable marked so. Throws std::invalid_argument for options
// that do not fit together or to the model, and what `source` throws.
[[nodiscard]] std::unique_ptr<WeightStore> make_resident_store(const ModelOptions& options,
                                                               const WeightSource& source);

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
