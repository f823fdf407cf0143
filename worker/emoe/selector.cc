#include "worker/emoe/selector.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace emoe::worker {

namespace {

// Orders as sort() does: NaN above everything, both zeros alike.
uint32_t key_of(float score) {
  if (std::isnan(score)) return std::numeric_limits<uint32_t>::max();
  const auto bits = std::bit_cast<uint32_t>(score + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

at::Tensor mask_on_cpu(const at::Tensor& scores, const ExpertRouting& routing) {
  const int64_t experts = scores.size(-1);
  const at::Tensor rows = scores.contiguous();
  at::Tensor mask = at::empty(rows.sizes(), rows.options().dtype(at::kBool));
  const auto* from = rows.const_data_ptr<float>();
  auto* to = mask.mutable_data_ptr<bool>();
  const bool largest = routing.selector != Selector::bottom;
  const bool taken = routing.selector != Selector::not_top;
  at::parallel_for(0, rows.numel() / experts, 64, [&](int64_t begin, int64_t end) {
    // Best first: by score, then by the lower index.
    std::vector<uint64_t> order(experts);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t e = 0; e < experts; ++e) {
        const uint32_t key = key_of(from[t * experts + e]);
        order[e] = static_cast<uint64_t>(largest ? ~key : key) << 32 | static_cast<uint64_t>(e);
      }
      std::nth_element(order.begin(), order.begin() + routing.top_k - 1, order.end());
      std::fill_n(to + t * experts, experts, !taken);
      for (int64_t i = 0; i < routing.top_k; ++i) {
        to[t * experts + static_cast<int64_t>(order[i] & 0xffffffffU)] = taken;
      }
    }
  });
  return mask;
}

}  // namespace

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

at::Tensor expert_mask(const at::Tensor& scores, const ExpertRouting& routing) {
  const int64_t experts = scores.size(-1);
  const int64_t top_k = routing.top_k;
  check_routing(routing, experts);
  if (scores.is_cpu() && scores.scalar_type() == at::kFloat) return mask_on_cpu(scores, routing);
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
