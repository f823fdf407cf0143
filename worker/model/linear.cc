#include "worker/model/linear.h"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "worker/model/device_kernels.h"
#include "worker/model/low_rank.h"
#include "worker/model/products.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Needed by backward besides activations: handles of the weights, and how x was used.
struct LinearsCall : torch::CustomClassHolder {
  std::vector<Linear> linears;
  LoraDropout dropout;
  bool recording = false;  // a graph is being made
  bool input_needs_grad = false;

  [[nodiscard]] bool needs_input_saved() const {
    return recording && std::any_of(linears.begin(), linears.end(),
                                    [](const Linear& linear) { return linear.trainable(); });
  }
};

// x as an adapter reads it: with dropout in fp32, of `wide`, which is made once for all adapters of
// the call; else x itself.
at::Tensor adapter_input(const at::Tensor& x, at::Tensor& wide, const LinearsCall& call,
                         const Lora& lora) {
  if (!call.dropout.active()) return x;
  if (kernels_for(x) != nullptr) return lora_input(x, lora, call.dropout);  // widens by itself
  if (!wide.defined()) wide = x.to(at::kFloat);
  return lora_input(wide, lora, call.dropout);
}

// Gradients of one adapter, whose input was `input` and scaled low-rank product `low`: {dA, dB}; adds
// its part of the input gradient to dx where that is wanted.
std::pair<at::Tensor, at::Tensor> adapter_backward(const LinearsCall& call, const Lora& lora,
                                                   const at::Tensor& dy, const at::Tensor& input,
                                                   const at::Tensor& low, at::Tensor& dx) {
  const at::Tensor d_low = low_product(dy, lora.b.t()).mul_(lora.scale);
  at::Tensor da = low_gradient(d_low, input);
  at::Tensor db = low_gradient(low, dy).t().contiguous();
  if (call.input_needs_grad) {
    if (call.dropout.active()) {
      add_lora_dropout(at::mm(d_low, lora.a), lora, call.dropout, dx);
    } else {
      add_low_product(dx, d_low, lora.a);
    }
  }
  return {da, db};
}

// The gradient of a trained weight; undefined where it was added to those of the micro-batches before in the product
// itself, which autograd would read and write once more.
at::Tensor master_gradient(at::Tensor master, const at::Tensor& dy, const at::Tensor& x) {
  if (!adds_weight_gradients(x) || !master.is_leaf() || !master.grad().defined()) {
    return weight_gradient(dy, x);
  }
  add_weight_gradient(dy, x, master.mutable_grad());
  return {};
}

// Arguments: x, then of each linear what it trains.
class ApplyLinears : public torch::autograd::Function<ApplyLinears> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               at::TensorList /*trained*/,
                               const c10::intrusive_ptr<LinearsCall>& call) {
    variable_list saved = {call->needs_input_saved() ? x : at::Tensor()};
    variable_list outputs;
    at::Tensor wide;
    for (const auto& linear : call->linears) {
      at::Tensor y = linear.weight->product(x);
      if (linear.bias.defined()) y.add_(linear.bias.compute.detach());
      if (linear.lora.defined()) {
        const at::Tensor low =
            low_product(adapter_input(x, wide, *call, linear.lora), linear.lora.a)
                .mul_(linear.lora.scale);
        add_low_product(y, low, linear.lora.b.t());
        saved.push_back(call->recording ? low : at::Tensor());
      } else {
        saved.emplace_back();
      }
      outputs.push_back(std::move(y));
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["call"] = c10::IValue::make_capsule(call);
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto capsule = ctx->saved_data["call"].toCapsule();
    const auto& call = static_cast<const LinearsCall&>(*capsule);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    at::Tensor dx;
    at::Tensor wide;
    variable_list result = {at::Tensor()};
    for (size_t i = 0; i < call.linears.size(); ++i) {
      const Linear& linear = call.linears[i];
      const at::Tensor& dy = grads[i];
      if (call.input_needs_grad) linear.weight->add_transposed_product(dy, dx);
      if (linear.master.defined()) result.push_back(master_gradient(linear.master, dy, x));
      if (linear.bias.trainable()) result.push_back(dy.sum(0, /*keepdim=*/false, at::kFloat));
      if (linear.lora.defined()) {
        const at::Tensor input = adapter_input(x, wide, call, linear.lora);
        auto [da, db] = adapter_backward(call, linear.lora, dy, input, saved[1 + i], dx);
        result.push_back(std::move(da));
        result.push_back(std::move(db));
      }
    }
    result[0] = dx;
    result.emplace_back();  // `call`
    return result;
  }
};

}  // namespace

std::vector<at::Tensor> Linear::trained() const {
  std::vector<at::Tensor> tensors;
  for (const at::Tensor& tensor : {master, bias.master, lora.a, lora.b}) {
    if (tensor.defined()) tensors.push_back(tensor);
  }
  return tensors;
}

std::vector<at::Tensor> apply_linears(const at::Tensor& x,
                                      const std::vector<const Linear*>& linears,
                                      const LoraDropout& dropout) {
  auto call = c10::make_intrusive<LinearsCall>();
  call->dropout = dropout;
  call->recording = at::GradMode::is_enabled();
  call->input_needs_grad = call->recording && x.requires_grad();
  variable_list trained;
  for (const Linear* linear : linears) {
    call->linears.push_back(*linear);
    for (const at::Tensor& tensor : linear->trained()) trained.push_back(tensor);
  }
  return ApplyLinears::apply(x, at::TensorList(trained), call);
}

at::Tensor apply_linear(const at::Tensor& x, const Linear& linear, const LoraDropout& dropout) {
  return apply_linears(x, {&linear}, dropout).front();
}

}  // namespace emoe::worker
