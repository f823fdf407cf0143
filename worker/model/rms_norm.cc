#include "worker/model/rms_norm.h"

#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/kernels/with_row_kernels.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// {y, inverse [T, 1]}.
std::pair<at::Tensor, at::Tensor> norm_forward(const at::Tensor& x, const at::Tensor& w,
                                               double epsilon) {
  at::Tensor y = at::empty_like(x);
  at::Tensor inverse = at::empty({x.size(0), 1}, x.options().dtype(at::kFloat));
  const bool done = with_row_kernels(x, [&]<typename T>(const RowKernels<T>& kernels) {
    const auto* in = static_cast<const T*>(x.const_data_ptr());
    const auto* weight = static_cast<const T*>(w.const_data_ptr());
    auto* out = static_cast<T*>(y.mutable_data_ptr());
    auto* inverses = inverse.mutable_data_ptr<float>();
    const int64_t size = x.size(1);
    at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        inverses[t] = kernels.rms_norm(in + t * size, weight, out + t * size, size,
                                       static_cast<float>(epsilon));
      }
    });
  });
  if (done) return {y, inverse};
  const at::Tensor wide = x.to(at::kFloat);
  inverse = wide.square().mean(-1, true).add_(epsilon).rsqrt_();
  return {(wide * inverse).to(x.scalar_type()).mul_(w), inverse};
}

at::Tensor norm_backward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& dy,
                         const at::Tensor& inverse) {
  at::Tensor dx = at::empty_like(x);
  const bool done = with_row_kernels(x, [&]<typename T>(const RowKernels<T>& kernels) {
    const auto* in = static_cast<const T*>(x.const_data_ptr());
    const auto* weight = static_cast<const T*>(w.const_data_ptr());
    const auto* gradient = static_cast<const T*>(dy.const_data_ptr());
    const auto* inverses = inverse.const_data_ptr<float>();
    auto* out = static_cast<T*>(dx.mutable_data_ptr());
    const int64_t size = x.size(1);
    at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        kernels.rms_norm_backward(in + t * size, weight, gradient + t * size, inverses[t],
                                  out + t * size, size);
      }
    });
  });
  if (done) return dx;
  const at::Tensor unit = x.to(at::kFloat) * inverse;
  at::Tensor scaled = dy.to(at::kFloat) * w.to(at::kFloat);
  const at::Tensor projection = (scaled * unit).mean(-1, true);
  return scaled.sub_(unit * projection).mul_(inverse).to(x.scalar_type());
}

// Arguments: x, the fp32 master (none when frozen), the weight as computed with.
class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::optional<at::Tensor>& master, const at::Tensor& weight,
                            double epsilon) {
    const auto [y, inverse] = norm_forward(x.contiguous(), weight, epsilon);
    ctx->save_for_backward({x, inverse, weight});
    ctx->saved_data["weight_gradient"] = master.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor x = saved[0].contiguous();
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dw;
    if (ctx->saved_data["weight_gradient"].toBool()) {
      dw = (dy.to(at::kFloat) * x.to(at::kFloat)).mul_(saved[1]).sum(0);
    }
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) dx = norm_backward(x, saved[2], dy, saved[1]);
    return {dx, dw, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const Weight& weight, double epsilon) {
  return RmsNorm::apply(x, weight.parameter(), weight.compute.detach(), epsilon);
}

}  // namespace emoe::worker
