#include <ATen/core/grad_mode.h>

#include "worker/model/ffn.h"
#include "worker/model/swiglu.h"

namespace emoe::worker {

FfnOutput MaskedFfn::forward(const at::Tensor& x, const FfnWeights& weights,
                             const ExpertRouting* routing, const LoraDropout& dropout) const {
  const auto gate_up = apply_linears(x, {&weights.gate, &weights.up}, dropout);
  FfnOutput output;
  if (routing != nullptr) output.selection = select_experts(gate_up[0], *routing);
  const at::Tensor neurons = masked_swiglu(gate_up[0], gate_up[1], output.selection.mask);
  output.y = apply_linear(neurons, weights.down, dropout);
  return output;
}

const std::map<std::string, MakeFfn>& ffn_backends() {
  static const std::map<std::string, MakeFfn> backends = {
      {"masked", []() -> std::unique_ptr<FfnBackend> { return std::make_unique<MaskedFfn>(); }}};
  return backends;
}

Selection choose_experts(const at::Tensor& x, const FfnWeights& weights,
                         const ExpertRouting& routing, const LoraDropout& dropout) {
  const at::NoGradGuard no_grad;
  return select_experts(apply_linear(x, weights.gate, dropout), routing);
}

}  // namespace emoe::worker
