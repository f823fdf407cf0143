#include "worker/model/rotary.h"

#include <numbers>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/device_kernels.h"
#include "worker/model/kernels/with_row_kernels.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// [T, heads, d] turned by +angle, or with sign -1 by -angle for the gradient (the transpose of a
// rotation).
at::Tensor rotate(const at::Tensor& x, const RotaryTable& table, float sign) {
  at::Tensor y = at::empty(x.sizes(), x.options());
  const int64_t heads = x.size(1);
  const int64_t half = x.size(2) / 2;
  const bool done = with_row_kernels(x, [&]<typename T>(const RowKernels<T>& kernels) {
    const at::Tensor rows = x.contiguous();
    const auto* in = static_cast<const T*>(rows.const_data_ptr());
    const auto* cosine = table.cosine.const_data_ptr<float>();
    const auto* sine = table.sine.const_data_ptr<float>();
    auto* out = static_cast<T*>(y.mutable_data_ptr());
    at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t head = 0; head < heads; ++head) {
          const int64_t offset = (t * heads + head) * 2 * half;
          kernels.rotate(in + offset, out + offset, cosine + t * half, sine + t * half, half, sign);
        }
      }
    });
  });
  if (done) return y;
  if (const DeviceKernels* kernels = kernels_for(x)) {
    const at::Tensor rows = x.contiguous();
    run_kernel(x, kernels->rotary,
               RotaryCall{.type = element_of(x),
                          .x = rows.const_data_ptr(),
                          .y = y.mutable_data_ptr(),
                          .cosine = table.cosine.const_data_ptr<float>(),
                          .sine = table.sine.const_data_ptr<float>(),
                          .tokens = x.size(0),
                          .heads = heads,
                          .half = half,
                          .sign = sign});
    return y;
  }
  const at::Tensor c = table.cosine.unsqueeze(1);
  const at::Tensor s = table.sine.unsqueeze(1);
  const at::Tensor first = x.narrow(-1, 0, half).to(at::kFloat);
  const at::Tensor second = x.narrow(-1, half, half).to(at::kFloat);
  y.narrow(-1, 0, half).copy_((first * c).addcmul_(second, s, -sign));
  y.narrow(-1, half, half).copy_((second * c).addcmul_(first, s, sign));
  return y;
}

at::Tensor llama3_frequencies(const at::Tensor& frequencies, const RopeScaling& scaling) {
  const auto positions = static_cast<double>(scaling.original_positions);
  const double low = scaling.low_freq_factor;
  const double high = scaling.high_freq_factor;
  const at::Tensor wavelengths = frequencies.reciprocal().mul_(2.0 * std::numbers::pi);
  const at::Tensor smooth = (wavelengths.reciprocal().mul_(positions) - low).div_(high - low);
  const at::Tensor between = (1.0 - smooth) * frequencies / scaling.factor + smooth * frequencies;
  const at::Tensor shortened = at::where(wavelengths < positions / high, frequencies, between);
  return at::where(wavelengths > positions / low, frequencies / scaling.factor, shortened);
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

at::Tensor rotary_frequencies(int64_t head_dim, const Rope& rope) {
  const at::Tensor exponents =
      at::arange(0, head_dim, 2, at::kFloat).div_(static_cast<double>(head_dim));
  at::Tensor frequencies = at::pow(rope.theta, exponents).reciprocal_();
  if (rope.scaling.type == RopeScaling::Type::linear) frequencies.div_(rope.scaling.factor);
  if (rope.scaling.type == RopeScaling::Type::llama3) {
    frequencies = llama3_frequencies(frequencies, rope.scaling);
  }
  return frequencies;
}

RotaryTable rotary_table(const at::Tensor& positions, const at::Tensor& frequencies) {
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * frequencies;
  return {angles.cos(), angles.sin()};
}

at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table) {
  return Rotary::apply(x, table.cosine, table.sine);
}

}  // namespace emoe::worker
