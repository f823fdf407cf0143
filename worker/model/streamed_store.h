#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "format/tensor_table.h"
#include "worker/model/weight_store.h"

namespace emoe::worker {

// Reads a layer when it is acquired and forgets it when it is released, so that a pass needs the
// memory of one layer and the embeddings. Nothing is trainable and no layer converted: the dense
// function, in the base's neuron order.
class StreamedStore final : public WeightStore {
 public:
  struct Tensor {
    at::Tensor values;  // in the model's dtype, on its device
    Lora lora;          // of a linear with an adapter beside it
  };
  using Source = std::function<Tensor(const TensorSpec&)>;

  // `source` is called again for each tensor at every pass.
  StreamedStore(const LlamaConfig& config, Source source);

  [[nodiscard]] const OuterWeights& outer() const override { return outer_; }
  [[nodiscard]] std::shared_ptr<const DecoderLayer> acquire(int64_t index) override;
  void prefetch(int64_t /*index*/) override {}
  [[nodiscard]] std::vector<Parameter>& parameters() override { return none_; }
  void parameters_changed() override {}

 private:
  TensorTable table_;
  Source source_;
  OuterWeights outer_;
  std::vector<Parameter> none_;
};

}  // namespace emoe::worker
