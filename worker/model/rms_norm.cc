#include "worker/model/rms_norm.h"

#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/kernels/row_kernels.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename T>
void forward_rows(const at::Tensor& x, const at::Tensor& w, at::Tensor& y, at::Tensor& inverse,
                  double epsilon) {
  const auto* in = static_cast<const T*>(x.const_data_ptr());
  const auto* weight = static_cast<const T*>(w.const_data_ptr());
  auto* out = static_cast<T*>(y.mutable_data_ptr());
  auto* inverses = inverse.mutable_data_ptr<float>();
  const int64_t size = x.size(1);
  at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      inverses[t] = row_kernels<T>().rms_norm(in + t * size, weight, out + t * size, size,
                                              static_cast<float>(epsilon));
    }
  });
}

template <typename T>
void backward_rows(const at::Tensor& x, const at::Tensor& w, const at::Tensor& dy,
                   const at::Tensor& inverse, at::Tensor& dx) {
  const auto* in = static_cast<const T*>(x.const_data_ptr());
  const auto* weight = static_cast<const T*>(w.const_data_ptr());
  const auto* gradient = static_cast<const T*>(dy.const_data_ptr());
  const auto* inverses = inverse.const_data_ptr<float>();
  auto* out = static_cast<T*>(dx.mutable_data_ptr());
  const int64_t size = x.size(1);
  at::parallel_for(0, x.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      row_kernels<T>().rms_norm_backward(in + t * size, weight, gradient + t * size, inverses[t],
                                         out + t * size, size);
    }
  });
}

bool has_kernel(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

// {y, inverse [T, 1]}.
std::pair<at::Tensor, at::Tensor> norm_forward(const at::Tensor& x, const at::Tensor& w,
                                               double epsilon) {
  if (!has_kernel(x)) {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor inverse = wide.square().mean(-1, true).add_(epsilon).rsqrt_();
    return {(wide * inverse).to(x.scalar_type()).mul_(w), inverse};
  }
  at::Tensor y = at::empty_like(x);
  at::Tensor inverse = at::empty({x.size(0), 1}, x.options().dtype(at::kFloat));
  if (x.scalar_type() == at::kFloat) {
    forward_rows<float>(x, w, y, inverse, epsilon);
  } else {
    forward_rows<Bf16>(x, w, y, inverse, epsilon);
  }
  return {y, inverse};
}

at::Tensor norm_backward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& dy,
                         const at::Tensor& inverse) {
  if (!has_kernel(x)) {
    const at::Tensor unit = x.to(at::kFloat) * inverse;
    at::Tensor scaled = dy.to(at::kFloat) * w.to(at::kFloat);
    const at::Tensor projection = (scaled * unit).mean(-1, true);
    return scaled.sub_(unit * projection).mul_(inverse).to(x.scalar_type());
  }
  at::Tensor dx = at::empty_like(x);
  if (x.scalar_type() == at::kFloat) {
    backward_rows<float>(x, w, dy, inverse, dx);
  } else {
    backward_rows<Bf16>(x, w, dy, inverse, dx);
  }
  return dx;
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
