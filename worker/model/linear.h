#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/lora.h"

namespace emoe::worker {

// A weight of the model in the dtype of the computation. `master` is defined in full tuning only:
// the fp32 parameter; in fp32 `compute` is the same tensor, in bf16 a copy that refresh() renews.
struct Weight {
  std::string name;  // Hugging Face name
  at::Tensor compute;
  at::Tensor master;

  [[nodiscard]] bool trainable() const { return master.defined(); }
  // The parameter as an optional argument of an autograd function.
  [[nodiscard]] std::optional<at::Tensor> parameter() const {
    return trainable() ? std::optional(master) : std::nullopt;
  }
  void refresh() const;
};

// y = x W^T (no bias), plus a LoRA adapter where there is one.
struct Linear {
  Weight weight;  // [out, in]
  Lora lora;

  [[nodiscard]] bool trainable() const { return weight.trainable() || lora.defined(); }
};

// The outputs of linears that share the input x [T, in], each [T, out_i] in x's dtype. One autograd
// node for all of them: it saves x only where a weight or an A needs it, never computes the
// gradient of a frozen weight, and sums the input gradient in place. Returned gradients are fresh
// tensors.
[[nodiscard]] std::vector<at::Tensor> apply_linears(const at::Tensor& x,
                                                    const std::vector<const Linear*>& linears,
                                                    const LoraDropout& dropout);
[[nodiscard]] at::Tensor apply_linear(const at::Tensor& x, const Linear& linear,
                                      const LoraDropout& dropout);

}  // namespace emoe::worker
