#include "worker/model/expert_gate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace emoe::worker {

namespace {

// [T, N] of every rank's [T, N / ranks].
at::Tensor gathered(const at::Tensor& own, DeviceGroup& group) {
  const int64_t ranks = group.world_size();
  at::Tensor all = at::empty({ranks * own.size(0), own.size(1)}, own.options());
  group.all_gather(own.contiguous(), all).wait();
  return all.unflatten(0, {ranks, own.size(0)}).transpose(0, 1).flatten(1);
}

}  // namespace

int64_t ExpertGate::own_experts() const {
  return shared_by == nullptr ? routing.num_experts : routing.num_experts / shared_by->world_size();
}

at::Tensor ExpertGate::own_columns(const at::Tensor& mask) const {
  if (shared_by == nullptr) return mask;
  return mask.narrow(1, shared_by->rank() * own_experts(), own_experts()).contiguous();
}

at::Tensor mean_gate_rows(const at::Tensor& gate, int64_t num_experts) {
  check_routing({.num_experts = num_experts, .top_k = 1}, gate.size(0));
  return gate.detach()
      .unflatten(0, {num_experts, gate.size(0) / num_experts})
      .mean(1, /*keepdim=*/false, at::kFloat);
}

Selection choose_experts(const at::Tensor& x, const Linear& gate, const ExpertGate& experts,
                         const LoraDropout& dropout) {
  const at::NoGradGuard no_grad;
  const at::Tensor wide = x.to(at::kFloat);
  at::Tensor scores = at::mm(wide, experts.means.t());
  if (experts.bias_means.defined()) scores.add_(experts.bias_means);
  if (gate.lora.defined()) {
    const at::Tensor low = at::mm(lora_input(wide, gate.lora, dropout), gate.lora.a.t());
    const at::Tensor means = mean_gate_rows(gate.lora.b, experts.own_experts());
    scores.addmm_(low, means.t(), 1.0, gate.lora.scale);
  }
  if (experts.shared_by != nullptr) scores = gathered(scores, *experts.shared_by);
  return {expert_mask(scores, experts.routing), scores};
}

}  // namespace emoe::worker
