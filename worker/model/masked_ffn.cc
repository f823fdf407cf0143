#include <ATen/ATen.h>

#include "worker/model/ffn.h"
#include "worker/model/swiglu.h"

namespace emoe::worker {
namespace {

class MaskedFfn final : public FfnBackend {
 public:
  [[nodiscard]] FfnOutput forward(const at::Tensor& x, const FfnWeights& weights,
                                  const ExpertGate* experts,
                                  const LoraDropout& dropout) const override {
    FfnOutput output;
    if (experts != nullptr) {
      output.selection = choose_experts(x, weights.gate, *experts, dropout);
    }
    const auto gate_up = apply_linears(x, {&weights.gate, &weights.up}, dropout);
    const at::Tensor mask =
        experts == nullptr ? at::Tensor() : experts->own_columns(output.selection.mask);
    const at::Tensor neurons = masked_swiglu(gate_up[0], gate_up[1], mask);
    output.y = apply_linear(neurons, weights.down, dropout);
    return output;
  }
};

}  // namespace

std::unique_ptr<FfnBackend> make_masked_ffn() {
  return std::make_unique<MaskedFfn>();
}

}  // namespace emoe::worker
