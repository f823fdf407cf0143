#pragma once

#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>

#include "format/tensor_table.h"
#include "worker/model/lora.h"
#include "worker/model/model.h"

namespace emoe::worker {

// A tensor as a streamed model computes with it.
struct StreamedTensor {
  at::Tensor values;  // fp32, on the CPU
  Lora lora;          // of a linear with an adapter beside it
};
using TensorReader = std::function<StreamedTensor(const TensorSpec&)>;

// The dense model of a configuration, in fp32 and in the base's neuron order, whose layers are read
// when a pass comes to them and forgotten behind it: it needs the memory of one layer and of the
// embeddings. `read` is called anew at every pass. Nothing is trainable.
[[nodiscard]] std::unique_ptr<Model> make_streamed_model(const LlamaConfig& config,
                                                         TensorReader read);

}  // namespace emoe::worker
