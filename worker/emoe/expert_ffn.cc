#include "worker/emoe/expert_ffn.h"

#include "worker/emoe/swiglu.h"

namespace emoe::worker {

at::Tensor MaskedExpertFfn::forward(const at::Tensor& x, const FfnLinears& linears,
                                    const ExpertRouting& routing,
                                    const SelectionObserver& observer) const {
  const auto [gate, up] = linears.gate_up(x);
  const at::Tensor scores = expert_scores(gate, routing.num_experts);
  const Selection selection =
      select_experts(scores, routing.top_k, routing.selector, static_cast<bool>(observer));
  if (observer) observer(selection, scores);
  return linears.down(masked_swiglu(gate, up, selection.mask));
}

at::Tensor dense_ffn(const at::Tensor& x, const FfnLinears& linears) {
  const auto [gate, up] = linears.gate_up(x);
  return linears.down(masked_swiglu(gate, up, at::Tensor()));
}

}  // namespace emoe::worker
