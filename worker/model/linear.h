#pragma once

#include <memory>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/lora.h"
#include "worker/model/weight_matrix.h"

namespace emoe::worker {

// A norm's weight or a bias [h], the embedding or the head [vocab, h], in the dtype of the activations.
// `master` is defined in full tuning only: the fp32 parameter; in fp32 `compute` is the same tensor,
// in bf16 a copy that the weight store renews after every step.
struct Weight {
  at::Tensor compute;
  at::Tensor master;
  // Of a frozen head, where its products are to use another order than compute's.
  std::shared_ptr<const WeightMatrix> packed = {};

  [[nodiscard]] bool defined() const { return compute.defined(); }
  [[nodiscard]] bool trainable() const { return master.defined(); }
  // As products take it: `packed`, or else what compute holds.
  [[nodiscard]] std::shared_ptr<const WeightMatrix> matrix() const {
    if (packed != nullptr) return packed;
    return std::make_shared<DenseMatrix>(compute.detach());
  }
  // The parameter as an optional argument of an autograd function.
  [[nodiscard]] std::optional<at::Tensor> parameter() const {
    return trainable() ? std::optional(master) : std::nullopt;
  }
};

// y = x W^T, plus a bias and a LoRA adapter where there is one.
struct Linear {
  std::shared_ptr<const WeightMatrix> weight;  // [out, in]
  at::Tensor master;                           // [out, in] as Weight::master
  Lora lora;
  Weight bias = {};  // [out]; undefined: none

  [[nodiscard]] bool trainable() const { return master.defined() || lora.defined(); }
  // What a backward pass has gradients of, in the order in which autograd functions take and return
  // them: master, bias, A, B, as far as they are trained.
  [[nodiscard]] std::vector<at::Tensor> trained() const;
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
