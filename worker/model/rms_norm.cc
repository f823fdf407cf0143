#include "worker/model/rms_norm.h"

#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/device_kernels.h"
#include "worker/model/kernels/with_row_kernels.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct NormOutputs {
  at::Tensor sum;      // x + residual; undefined: there is no residual
  at::Tensor y;        // [T, h]
  at::Tensor inverse;  // [T, 1]
};

const void* data_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

void device_norm(const DeviceKernels& kernels, const at::Tensor& x, const at::Tensor& residual,
                 const at::Tensor& w, double epsilon, const NormOutputs& out) {
  run_kernel(x, kernels.rms_norm,
             NormCall{.type = element_of(x),
                      .x = x.const_data_ptr(),
                      .residual = data_of(residual),
                      .w = w.const_data_ptr(),
                      .sum = out.sum.defined() ? out.sum.mutable_data_ptr() : nullptr,
                      .y = out.y.mutable_data_ptr(),
                      .inverse = out.inverse.mutable_data_ptr<float>(),
                      .rows = x.size(0),
                      .size = x.size(1),
                      .epsilon = static_cast<float>(epsilon)});
}

// The gradient of s for dy, plus d_sum where that is defined.
at::Tensor device_norm_backward(const DeviceKernels& kernels, const at::Tensor& s,
                                const at::Tensor& w, const at::Tensor& dy,
                                const at::Tensor& inverse, const at::Tensor& d_sum) {
  at::Tensor dx = at::empty_like(s);
  run_kernel(s, kernels.rms_norm_backward,
             NormBackwardCall{.type = element_of(s),
                              .s = s.const_data_ptr(),
                              .w = w.const_data_ptr(),
                              .dy = dy.const_data_ptr(),
                              .inverse = inverse.const_data_ptr<float>(),
                              .d_sum = data_of(d_sum),
                              .dx = dx.mutable_data_ptr(),
                              .rows = s.size(0),
                              .size = s.size(1)});
  return dx;
}

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
  if (const DeviceKernels* kernels = kernels_for(x)) {
    device_norm(*kernels, x, at::Tensor(), w, epsilon, {at::Tensor(), y, inverse});
    return {y, inverse};
  }
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
  if (const DeviceKernels* kernels = kernels_for(x)) {
    return device_norm_backward(*kernels, x, w, dy, inverse, at::Tensor());
  }
  const at::Tensor unit = x.to(at::kFloat) * inverse;
  at::Tensor scaled = dy.to(at::kFloat) * w.to(at::kFloat);
  const at::Tensor projection = (scaled * unit).mean(-1, true);
  return scaled.sub_(unit * projection).mul_(inverse).to(x.scalar_type());
}

at::Tensor weight_gradient_of_norm(const at::Tensor& s, const at::Tensor& dy,
                                   const at::Tensor& inverse) {
  return (dy.to(at::kFloat) * s.to(at::kFloat)).mul_(inverse).sum(0);
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
      dw = weight_gradient_of_norm(x, dy, saved[1]);
    }
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) dx = norm_backward(x, saved[2], dy, saved[1]);
    return {dx, dw, at::Tensor(), at::Tensor()};
  }
};

// Arguments: x, residual, the master, the weight, epsilon. Returns {sum, y}; on a device with kernels.
class AddRmsNorm : public torch::autograd::Function<AddRmsNorm> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               const at::Tensor& residual, const std::optional<at::Tensor>& master,
                               const at::Tensor& weight, double epsilon) {
    const NormOutputs out{at::empty_like(x), at::empty_like(x),
                          at::empty({x.size(0), 1}, x.options().dtype(at::kFloat))};
    device_norm(*kernels_for(x), x, residual, weight, epsilon, out);
    ctx->save_for_backward({out.sum, out.inverse, weight});
    ctx->saved_data["weight_gradient"] = master.has_value();
    return {out.sum, out.y};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dy = grads[1].contiguous();
    at::Tensor dw;
    if (ctx->saved_data["weight_gradient"].toBool()) {
      dw = weight_gradient_of_norm(saved[0], dy, saved[1]);
    }
    const at::Tensor dx = device_norm_backward(*kernels_for(saved[0]), saved[0], saved[2], dy,
                                               saved[1], grads[0].contiguous());
    return {dx, dx, dw, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

SumAndNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const Weight& weight,
                        double epsilon) {
  if (kernels_for(x) == nullptr) {
    const at::Tensor sum = x + residual;
    return {sum, rms_norm(sum, weight, epsilon)};
  }
  const variable_list outputs = AddRmsNorm::apply(
      x.contiguous(), residual.contiguous(), weight.parameter(), weight.compute.detach(), epsilon);
  return {outputs[0], outputs[1]};
}

at::Tensor rms_norm(const at::Tensor& x, const Weight& weight, double epsilon) {
  return RmsNorm::apply(x, weight.parameter(), weight.compute.detach(), epsilon);
}

}  // namespace emoe::worker
