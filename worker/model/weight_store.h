#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/model/decoder_layer.h"
#include "worker/model/model.h"

namespace emoe::worker {

// Where a decoder's weights are, layer by layer: all in memory, read when they are needed, or (one
// day) sharded over ranks. A backward pass holds the matrices that it needs by itself.
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

}  // namespace emoe::worker
