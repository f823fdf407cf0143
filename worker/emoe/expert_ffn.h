#pragma once

#include <functional>
#include <utility>

#include <ATen/core/Tensor.h>

#include "worker/emoe/options.h"
#include "worker/emoe/selector.h"

namespace emoe::worker {

// The three products of a SwiGLU feed-forward layer, adapters included, as the model computes them.
struct FfnLinears {
  std::function<std::pair<at::Tensor, at::Tensor>(const at::Tensor& x)> gate_up;  // [T, d] each
  std::function<at::Tensor(const at::Tensor& activations)> down;  // [T, d] → [T, h]
};

// How a converted layer chooses.
struct ExpertRouting {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  Selector selector = Selector::top;
};

// What was chosen, for whoever wants to know.
using SelectionObserver = std::function<void(const Selection& selection, const at::Tensor& scores)>;

// How a converted feed-forward layer is computed. Back-ends agree on the choice and on all values
// to rounding: masked dense computes every channel and zeroes those not chosen; a sparse one may
// compute only the chosen blocks.
class ExpertFfn {
 public:
  virtual ~ExpertFfn() = default;
  // x [T, h] after the norm → [T, h]. `observer` may be empty.
  [[nodiscard]] virtual at::Tensor forward(const at::Tensor& x, const FfnLinears& linears,
                                           const ExpertRouting& routing,
                                           const SelectionObserver& observer) const = 0;
};

// down((SiLU(gate x) * up x) * mask): right everywhere, and no slower than dense.
class MaskedExpertFfn : public ExpertFfn {
 public:
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const FfnLinears& linears,
                                   const ExpertRouting& routing,
                                   const SelectionObserver& observer) const override;
};

// down(SiLU(gate x) * up x).
[[nodiscard]] at::Tensor dense_ffn(const at::Tensor& x, const FfnLinears& linears);

}  // namespace emoe::worker
