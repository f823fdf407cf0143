#include "worker/model/rotary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/kernels/row_kernels.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename T>
void rotate_rows(const at::Tensor& x, const RotaryTable& table, float sign, at::Tensor& y) {
  const int64_t heads = x.size(1);
  const int64_t half = x.size(2) / 2;
  const auto* in = static_cast<const T*>(x.const_data_ptr());
  const auto* cosine = table.cosine.const_data_ptr<float>();
  const auto* sine = table.sine.const_data_ptr<float>();
  auto* out = static_cast<T*>(y.mutable_data_ptr());
  at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t offset = (t * heads + head) * 2 * half;
        row_kernels<T>().rotate(in + offset, out + offset, cosine + t * half, sine + t * half, half,
                                sign);
      }
    }
  });
}

// [T, heads, d] turned by +angle, or with sign -1 by -angle for the gradient (the transpose of a
// rotation).
at::Tensor rotate(const at::Tensor& x, const RotaryTable& table, float sign) {
  at::Tensor y = at::empty(x.sizes(), x.options());
  if (x.is_cpu() && x.scalar_type() == at::kFloat) {
    rotate_rows<float>(x.contiguous(), table, sign, y);
    return y;
  }
  if (x.is_cpu() && x.scalar_type() == at::kBFloat16) {
    rotate_rows<Bf16>(x.contiguous(), table, sign, y);
    return y;
  }
  const int64_t half = x.size(-1) / 2;
  const at::Tensor c = table.cosine.unsqueeze(1);
  const at::Tensor s = table.sine.unsqueeze(1);
  const at::Tensor first = x.narrow(-1, 0, half).to(at::kFloat);
  const at::Tensor second = x.narrow(-1, half, half).to(at::kFloat);
  y.narrow(-1, 0, half).copy_((first * c).addcmul_(second, s, -sign));
  y.narrow(-1, half, half).copy_((second * c).addcmul_(first, s, sign));
  return y;
}

class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cosine,
                            const at::Tensor& sine) {
    ctx->save_for_backward({cosine, sine});
    return rotate(x, {cosine, sine}, 1.0F);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {rotate(grads[0], {saved[0], saved[1]}, -1.0F), at::Tensor(), at::Tensor()};
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
