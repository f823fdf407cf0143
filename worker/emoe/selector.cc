#include "worker/emoe/selector.h"

#include <stdexcept>
#include <string>

#include <ATen/ATen.h>

namespace emoe::worker {

void check_routing(const ExpertRouting& routing, int64_t d_ff) {
  const int64_t experts = routing.num_experts;
  if (experts <= 0 || d_ff % experts != 0) {
    throw std::invalid_argument(std::to_string(experts) + " experts do not divide d_ff " +
                                std::to_string(d_ff));
  }
  if (routing.top_k < 1 || routing.top_k > experts) {
    throw std::invalid_argument("top_k " + std::to_string(routing.top_k) + " is not in 1 … " +
                                std::to_string(experts));
  }
}

Selection select_experts(const at::Tensor& gate, const ExpertRouting& routing) {
  check_routing(routing, gate.size(-1));
  const int64_t experts = routing.num_experts;
  const at::Tensor scores =
      gate.detach().unflatten(-1, {experts, gate.size(-1) / experts}).mean(-1, false, at::kFloat);
  return {expert_mask(scores, routing), scores};
}

at::Tensor expert_mask(const at::Tensor& scores, const ExpertRouting& routing) {
  const int64_t experts = scores.size(-1);
  const int64_t top_k = routing.top_k;
  check_routing(routing, experts);
  const bool descending = routing.selector != Selector::bottom;
  const at::Tensor order = std::get<1>(scores.sort(/*stable=*/true, -1, descending));
  const at::Tensor taken = routing.selector == Selector::not_top
                               ? order.narrow(-1, top_k, experts - top_k)
                               : order.narrow(-1, 0, top_k);
  at::Tensor mask = at::zeros(scores.sizes(), scores.options().dtype(at::kBool));
  return mask.scatter_(-1, taken, true);
}

at::Tensor expert_indices(const at::Tensor& mask) {
  const at::Tensor experts = mask.nonzero().select(1, 1);  // row by row
  const int64_t each = mask.size(0) == 0 ? 0 : experts.numel() / mask.size(0);
  return experts.view({mask.size(0), each}).to(at::kInt);
}

}  // namespace emoe::worker
