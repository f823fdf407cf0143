#include "worker/emoe/selector.h"

#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include <ATen/ATen.h>

namespace emoe::worker {

at::Tensor expert_scores(const at::Tensor& gate, int64_t num_experts) {
  const int64_t channels = gate.size(-1);
  if (num_experts <= 0 || channels % num_experts != 0) {
    throw std::invalid_argument(std::to_string(num_experts) + " experts do not divide " +
                                std::to_string(channels) + " channels");
  }
  return gate.detach()
      .unflatten(-1, {num_experts, channels / num_experts})
      .mean(-1, false, at::kFloat);
}

Selection select_experts(const at::Tensor& scores, int64_t top_k, Selector selector, bool details) {
  const int64_t experts = scores.size(-1);
  if (top_k < 1 || top_k > experts) {
    throw std::invalid_argument("top_k " + std::to_string(top_k) + " is not in 1 … " +
                                std::to_string(experts));
  }
  const bool descending = selector != Selector::bottom;
  const auto [values, order] = scores.sort(/*stable=*/true, -1, descending);
  const bool complement = selector == Selector::not_top;
  const at::Tensor taken =
      complement ? order.narrow(-1, top_k, experts - top_k) : order.narrow(-1, 0, top_k);
  Selection selection;
  selection.mask = at::zeros(scores.sizes(), scores.options().dtype(at::kBool));
  selection.mask.scatter_(-1, taken, true);
  if (!details) return selection;
  selection.chosen = std::get<0>(taken.sort(-1)).to(at::kInt);
  selection.margin =
      top_k < experts
          ? (values.select(-1, top_k - 1) - values.select(-1, top_k)).abs_()
          : at::full({scores.size(0)}, std::numeric_limits<float>::infinity(), scores.options());
  return selection;
}

}  // namespace emoe::worker
