#include "worker/model/rotary.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// [T, heads, d] turned by +angle, or by -angle for the gradient (the transpose of a rotation).
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine,
                  bool backwards) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor c = cosine.unsqueeze(1);
  const at::Tensor s = sine.unsqueeze(1);
  const at::Tensor first = x.narrow(-1, 0, half).to(at::kFloat);
  const at::Tensor second = x.narrow(-1, half, half).to(at::kFloat);
  const double sign = backwards ? -1.0 : 1.0;
  at::Tensor y = at::empty(x.sizes(), x.options());
  y.narrow(-1, 0, half).copy_((first * c).addcmul_(second, s, -sign));
  y.narrow(-1, half, half).copy_((second * c).addcmul_(first, s, sign));
  return y;
}

class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cosine,
                            const at::Tensor& sine) {
    ctx->save_for_backward({cosine, sine});
    return rotate(x, cosine, sine, false);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {rotate(grads[0], saved[0], saved[1], true), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

RotaryTable rotary_table(const at::Tensor& positions, int64_t head_dim, double theta) {
  const auto options = positions.options().dtype(at::kFloat);
  const at::Tensor exponents =
      at::arange(0, head_dim, 2, options).div_(static_cast<double>(head_dim));
  const at::Tensor frequencies = at::pow(theta, exponents).reciprocal_();
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * frequencies;
  return {angles.cos(), angles.sin()};
}

at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table) {
  return Rotary::apply(x, table.cosine, table.sine);
}

}  // namespace emoe::worker
