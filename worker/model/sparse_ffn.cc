#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "worker/model/expert_products.h"
#include "worker/model/ffn.h"
#include "worker/model/swiglu.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor wide(const at::Tensor& x) {
  return x.to(at::kFloat).contiguous();
}

// One of the three linears as the products see it: neurons first.
struct ExpertLinear {
  const Linear& linear;
  at::Tensor weight;   // [d, h]
  at::Tensor neurons;  // [d, r]: the adapter's B of gate and up, its A of down, transposed
  at::Tensor tokens;   // [r, h] or [h, r]: the other one, as it is

  [[nodiscard]] bool adapted() const { return linear.lora.defined(); }
};

ExpertLinear into_neurons(const Linear& linear) {
  const Lora& lora = linear.lora;
  if (!lora.defined()) return {linear, linear.weight->values(), {}, {}};
  return {linear, linear.weight->values(), lora.b.detach(), lora.a.detach()};
}

ExpertLinear out_of_neurons(const Linear& linear) {
  const Lora& lora = linear.lora;
  const at::Tensor weight = linear.weight->values().t();
  if (!lora.defined()) return {linear, weight, {}, {}};
  return {linear, weight, lora.a.detach().t(), lora.b.detach()};
}

// What a backward pass needs besides saved tensors.
struct ExpertCall : torch::CustomClassHolder {
  ExpertCall(FfnWeights linears, LoraDropout drop, const at::Tensor& mask)
      : weights(std::move(linears)), dropout(std::move(drop)), chosen(mask) {}

  FfnWeights weights;
  LoraDropout dropout;
  ExpertTokens chosen;
  bool input_needs_grad = false;

  // What the adapter of down reads, fp32.
  [[nodiscard]] at::Tensor drop_activations(const at::Tensor& activations) const {
    if (!dropout.active()) return wide(activations);
    std::vector<int64_t> starts(chosen.rows());
    for (int64_t e = 0; e < chosen.experts(); ++e) {
      std::fill(starts.begin() + chosen.begin[e], starts.begin() + chosen.begin[e + 1],
                weights.down.lora.first_feature + e * activations.size(1));
    }
    return apply_lora_dropout(wide(activations), dropout, weights.down.lora.stream,
                              {chosen.tokens.data(), starts.data()});
  }
};

// A bias [d] as what products add to: each row has that of its expert's neurons. Undefined: no bias.
at::Tensor bias_rows(const ExpertCall& call, const Weight& bias) {
  if (!bias.defined()) return {};
  const at::Tensor of_experts =
      wide(bias.compute.detach()).unflatten(0, {call.chosen.experts(), -1});
  return of_experts.index_select(0, call.chosen.expert_of_rows());
}

// The gradient of a bias [d] for that of the rows it was added to.
at::Tensor bias_gradient(const ExpertCall& call, const at::Tensor& d) {
  at::Tensor sums = at::zeros({call.chosen.experts(), d.size(1)}, d.options().dtype(at::kFloat));
  return sums.index_add_(0, call.chosen.expert_of_rows(), wide(d)).flatten();
}

// The pre-activations of gate or up [P, E]; `low` becomes the adapter's scaled x A^T [T, r].
at::Tensor neurons_of(const ExpertCall& call, const ExpertLinear& linear, const at::Tensor& x,
                      const at::Tensor& wide_x, at::Tensor& low) {
  at::Tensor out = bias_rows(call, linear.linear.bias);
  experts_from_tokens(call.chosen, x, linear.weight, out);
  if (!linear.adapted()) return out;
  const Lora& lora = linear.linear.lora;
  low = at::mm(lora_input(wide_x, lora, call.dropout), linear.tokens.t()).mul_(lora.scale);
  experts_from_tokens(call.chosen, low, linear.neurons, out);
  return out;
}

// Gradients of gate or up for that of its outputs, d [P, E]: appends those of whatever is trained, and
// adds an adapter's part to dx.
void backward_of_neurons(const ExpertCall& call, const ExpertLinear& linear, const at::Tensor& d,
                         const at::Tensor& wide_x, const at::Tensor& low, at::Tensor& dx,
                         variable_list& gradients) {
  if (linear.linear.master.defined()) {
    gradients.push_back(expert_weight_gradient(call.chosen, wide(d), wide_x));
  }
  if (linear.linear.bias.trainable()) gradients.push_back(bias_gradient(call, d));
  if (!linear.adapted()) return;
  const Lora& lora = linear.linear.lora;
  at::Tensor d_low = at::zeros_like(low);
  tokens_from_experts(call.chosen, d, linear.neurons, d_low);
  d_low.mul_(lora.scale);
  gradients.push_back(at::mm(d_low.t(), lora_input(wide_x, lora, call.dropout)));
  gradients.push_back(expert_weight_gradient(call.chosen, wide(d), low));
  if (call.input_needs_grad) dx.add_(lora_input(at::mm(d_low, linear.tokens), lora, call.dropout));
}

// Arguments: x, then of gate, up and down what they train.
class ApplyExperts : public torch::autograd::Function<ApplyExperts> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList /*trained*/,
                            const c10::intrusive_ptr<ExpertCall>& call) {
    const at::ScalarType type = x.scalar_type();
    at::Tensor low_gate;
    at::Tensor low_up;
    const ExpertLinear into_gate = into_neurons(call->weights.gate);
    const ExpertLinear into_up = into_neurons(call->weights.up);
    const at::Tensor wide_x = into_gate.adapted() || into_up.adapted() ? wide(x) : at::Tensor();
    const at::Tensor gate = neurons_of(*call, into_gate, x, wide_x, low_gate).to(type);
    const at::Tensor up = neurons_of(*call, into_up, x, wide_x, low_up).to(type);
    const at::Tensor activations = swiglu(gate, up, {});
    const ExpertLinear down = out_of_neurons(call->weights.down);
    const auto fp32 = x.options().dtype(at::kFloat);
    at::Tensor y = at::zeros({x.size(0), down.weight.size(1)}, fp32);
    if (down.linear.bias.defined()) y.add_(down.linear.bias.compute.detach());
    tokens_from_experts(call->chosen, activations, down.weight, y);
    at::Tensor low_down;
    if (down.adapted()) {
      low_down = at::zeros({x.size(0), down.neurons.size(1)}, fp32);
      tokens_from_experts(call->chosen, call->drop_activations(activations), down.neurons,
                          low_down);
      low_down.mul_(down.linear.lora.scale);
      y.addmm_(low_down, down.tokens.t());
    }
    const bool input = call->weights.gate.trainable() || call->weights.up.trainable();
    ctx->save_for_backward({input ? x : at::Tensor(), gate, up, low_gate, low_up, low_down});
    ctx->saved_data["call"] = c10::IValue::make_capsule(call);
    return y.to(type);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto capsule = ctx->saved_data["call"].toCapsule();
    const auto& call = static_cast<const ExpertCall&>(*capsule);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dy = grads[0].contiguous();
    const at::Tensor x = saved[0].defined() ? wide(saved[0]) : at::Tensor();
    const at::Tensor& gate = saved[1];
    const at::Tensor& up = saved[2];
    variable_list of_down;
    const at::Tensor d = backward_of_down(call, dy, gate, up, saved[5], of_down);
    const at::Tensor d_both = joint_swiglu_backward(gate, up, d);
    const ExpertLinear into_gate = into_neurons(call.weights.gate);
    const ExpertLinear into_up = into_neurons(call.weights.up);
    at::Tensor dx;
    if (call.input_needs_grad) {
      dx = at::zeros({dy.size(0), call.weights.gate.weight->values().size(1)},
                     dy.options().dtype(at::kFloat));
      tokens_from_expert_pairs(call.chosen, d_both, into_gate.weight, into_up.weight, dx);
    }
    variable_list result = {at::Tensor()};
    const int64_t size = gate.size(1);
    backward_of_neurons(call, into_gate, d_both.narrow(1, 0, size), x, saved[3], dx, result);
    backward_of_neurons(call, into_up, d_both.narrow(1, size, size), x, saved[4], dx, result);
    if (dx.defined()) result[0] = dx.to(dy.scalar_type());
    result.insert(result.end(), of_down.begin(), of_down.end());
    result.emplace_back();  // `call`
    return result;
  }

 private:
  // The gradient of the activations [P, E] for that of the output, dy [T, h], in its dtype; appends
  // those of whatever down trains.
  static at::Tensor backward_of_down(const ExpertCall& call, const at::Tensor& dy,
                                     const at::Tensor& gate, const at::Tensor& up,
                                     const at::Tensor& low, variable_list& gradients) {
    const ExpertLinear down = out_of_neurons(call.weights.down);
    at::Tensor d;
    experts_from_tokens(call.chosen, dy, down.weight, d);
    if (down.linear.master.defined()) {
      const at::Tensor activations = wide(swiglu(gate, up, {}));
      gradients.push_back(expert_weight_gradient(call.chosen, activations, wide(dy)).t());
    }
    if (down.linear.bias.trainable()) {
      gradients.push_back(dy.sum(0, /*keepdim=*/false, at::kFloat));
    }
    if (!down.adapted()) return d.to(dy.scalar_type());
    const at::Tensor d_low = at::mm(wide(dy), down.tokens).mul_(down.linear.lora.scale);
    at::Tensor of_adapter;
    experts_from_tokens(call.chosen, d_low, down.neurons, of_adapter);
    d.add_(call.drop_activations(of_adapter));
    const at::Tensor read = call.drop_activations(swiglu(gate, up, {}));
    gradients.push_back(expert_weight_gradient(call.chosen, read, d_low).t());
    gradients.push_back(at::mm(wide(dy).t(), low));
    return d.to(dy.scalar_type());
  }
};

bool has_plain_weights(const FfnWeights& weights) {
  for (const Linear* linear : {&weights.gate, &weights.up, &weights.down}) {
    const at::Tensor values = linear->weight->values();
    if (!values.defined() || !values.is_cpu()) return false;
    if (values.scalar_type() != at::kFloat && values.scalar_type() != at::kBFloat16) return false;
  }
  return true;
}

class SparseFfn final : public FfnBackend {
 public:
  [[nodiscard]] FfnOutput forward(const at::Tensor& x, const FfnWeights& weights,
                                  const ExpertGate* experts,
                                  const LoraDropout& dropout) const override {
    // With all experts it is the dense function, bit for bit.
    if (experts == nullptr || experts->routing.top_k == experts->routing.num_experts ||
        !has_plain_weights(weights)) {
      return masked_->forward(x, weights, experts, dropout);
    }
    FfnOutput output;
    output.selection = choose_experts(x, weights.gate, *experts, dropout);
    // Of the experts of a rank that shares the layer a token has as many as it happens to have, perhaps none.
    auto call = c10::make_intrusive<ExpertCall>(weights, dropout,
                                                experts->own_columns(output.selection.mask));
    call->input_needs_grad = at::GradMode::is_enabled() && x.requires_grad();
    variable_list trained;
    for (const Linear* linear : {&weights.gate, &weights.up, &weights.down}) {
      for (const at::Tensor& tensor : linear->trained()) trained.push_back(tensor);
    }
    output.y = ApplyExperts::apply(x, at::TensorList(trained), call);
    return output;
  }

 private:
  std::unique_ptr<FfnBackend> masked_ = make_masked_ffn();
};

}  // namespace

std::unique_ptr<FfnBackend> make_sparse_ffn() {
  return std::make_unique<SparseFfn>();
}

}  // namespace emoe::worker
