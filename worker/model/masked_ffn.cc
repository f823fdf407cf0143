#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/ffn.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Zeroes the channels of the experts not chosen, in place.
void apply_mask(at::Tensor& channels, const at::Tensor& mask) {
  if (!mask.defined()) return;
  const int64_t experts = mask.size(-1);
  channels.unflatten(-1, {experts, channels.size(-1) / experts}).mul_(mask.unsqueeze(-1));
}

class MaskedSwiglu : public torch::autograd::Function<MaskedSwiglu> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up,
                            const std::optional<at::Tensor>& chosen) {
    const at::Tensor mask = chosen.value_or(at::Tensor());
    ctx->save_for_backward({gate, up, mask});
    at::Tensor out = at::silu(gate).mul_(up);
    apply_mask(out, mask);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& gate = saved[0];
    at::Tensor d_out = grads[0];
    if (saved[2].defined()) {
      d_out = d_out.clone();
      apply_mask(d_out, saved[2]);
    }
    at::Tensor d_up = at::silu(gate).mul_(d_out);
    at::Tensor d_gate = at::silu_backward(d_out * saved[1], gate);
    return {d_gate, d_up, at::Tensor()};
  }
};

class MaskedFfn final : public FfnBackend {
 public:
  [[nodiscard]] FfnOutput forward(const at::Tensor& x, const FfnWeights& weights,
                                  const ExpertRouting* routing,
                                  const LoraDropout& dropout) const override {
    const auto gate_up = apply_linears(x, {&weights.gate, &weights.up}, dropout);
    FfnOutput output;
    if (routing != nullptr) output.selection = select_experts(gate_up[0], *routing);
    const at::Tensor neurons = masked_swiglu(gate_up[0], gate_up[1], output.selection.mask);
    output.y = apply_linear(neurons, weights.down, dropout);
    return output;
  }
};

}  // namespace

at::Tensor masked_swiglu(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& mask) {
  return MaskedSwiglu::apply(gate, up, mask.defined() ? std::optional(mask) : std::nullopt);
}

const std::map<std::string, MakeFfn>& ffn_backends() {
  static const std::map<std::string, MakeFfn> backends = {
      {"masked", []() -> std::unique_ptr<FfnBackend> { return std::make_unique<MaskedFfn>(); }}};
  return backends;
}

std::unique_ptr<FfnBackend> default_ffn() {
  return ffn_backends().at("masked")();
}

Selection choose_experts(const at::Tensor& x, const FfnWeights& weights,
                         const ExpertRouting& routing, const LoraDropout& dropout) {
  const at::NoGradGuard no_grad;
  return select_experts(apply_linear(x, weights.gate, dropout), routing);
}

}  // namespace emoe::worker
