#include "worker/model/expert_gate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "worker/model/device_kernels.h"

namespace emoe::worker {
namespace {

at::Tensor mask_of_scores(const at::Tensor& scores, const ExpertRouting& routing) {
  const DeviceKernels* kernels = kernels_for(scores);
  if (kernels == nullptr) return expert_mask(scores, routing);
  check_routing(routing, scores.size(1));
  at::Tensor mask = at::empty(scores.sizes(), scores.options().dtype(at::kBool));
  run_kernel(scores, kernels->choice,
             ChoiceCall{.scores = scores.const_data_ptr<float>(),
                        .mask = mask.mutable_data_ptr<bool>(),
                        .tokens = scores.size(0),
                        .experts = scores.size(1),
                        .top_k = routing.top_k,
                        .largest = routing.selector != Selector::bottom,
                        .taken = routing.selector != Selector::not_top});
  return mask;
}

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
  return {mask_of_scores(scores, experts.routing), scores};
}

}  // namespace emoe::worker
