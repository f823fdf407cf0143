#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "worker/model/model.h"

namespace emoe::worker {

// True when training can have changed the tensor of this Hugging Face name.
[[nodiscard]] bool is_trained(const Model& model, const std::string& name);

// The trained tensor of a Hugging Face name as a dense fp32 tensor on the CPU, in the base's neuron
// order: base + alpha/r * B A in fp32 for a linear with an adapter, the master itself in full
// tuning, the base where nothing is trained. `base` is the original tensor as stored.
[[nodiscard]] at::Tensor merged_weight(const Model& model, const std::string& name,
                                       const at::Tensor& base);

// The parameter of this name; null where there is none.
[[nodiscard]] const Parameter* find_parameter(const Model& model, const std::string& name);
// Its tensor as files have it: fp32 on the CPU, in the base's neuron order, without a graph.
[[nodiscard]] at::Tensor stored_tensor(const Parameter& parameter);

}  // namespace emoe::worker
