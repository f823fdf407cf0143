#include "worker/model/recomputation.h"

#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RepeatedCall : torch::CustomClassHolder {
  explicit RepeatedCall(RepeatedLayer of) : layer(std::move(of)) {}

  [[nodiscard]] FfnOutput forward(const at::Tensor& x) const {
    return forward_layer(*layer.acquire(), x, layer.pass, layer.attention, {});
  }

  RepeatedLayer layer;
  Selection selection;  // of the first time
};

// Arguments: x; a tensor that needs a gradient and gets none, so that there is a backward pass also where x needs
// none; the call.
class RepeatLayer : public torch::autograd::Function<RepeatLayer> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& /*anchor*/,
                            const c10::intrusive_ptr<RepeatedCall>& call) {
    // LibTorch calls this without a graph.
    FfnOutput output = call->forward(x);
    call->selection = std::move(output.selection);
    ctx->save_for_backward({x});
    ctx->saved_data["input_needs_grad"] = x.requires_grad();
    ctx->saved_data["call"] = c10::IValue::make_capsule(call);
    return output.y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto capsule = ctx->saved_data["call"].toCapsule();
    const bool input_needs_grad = ctx->saved_data["input_needs_grad"].toBool();
    const at::Tensor x = ctx->get_saved_variables()[0].detach().set_requires_grad(input_needs_grad);
    at::Tensor y;
    {
      const at::AutoGradMode with_graph(true);
      y = static_cast<const RepeatedCall&>(*capsule).forward(x).y;
    }
    // Inside the engine's own walk: it finishes this one first.
    torch::autograd::backward({y}, {grads[0]});
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

FfnOutput repeated_layer(RepeatedLayer layer, const at::Tensor& x) {
  const at::Tensor anchor = at::empty({0}, x.options()).set_requires_grad(true);
  auto call = c10::make_intrusive<RepeatedCall>(std::move(layer));
  FfnOutput output;
  output.y = RepeatLayer::apply(x, anchor, call);
  output.selection = std::exchange(call->selection, {});
  return output;
}

}  // namespace emoe::worker
