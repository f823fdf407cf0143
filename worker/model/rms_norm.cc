#include "worker/model/rms_norm.h"

#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Arguments: x, the fp32 master (undefined when frozen), the weight as computed with.
class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::optional<at::Tensor>& master, const at::Tensor& weight,
                            double epsilon) {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor inverse = wide.square().mean(-1, true).add_(epsilon).rsqrt_();
    ctx->save_for_backward({x, inverse, weight});
    ctx->saved_data["weight_gradient"] = master.has_value();
    return (wide * inverse).to(x.scalar_type()).mul_(weight);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& inverse = saved[1];
    const at::Tensor dy = grads[0].to(at::kFloat);
    const at::Tensor unit = saved[0].to(at::kFloat) * inverse;
    at::Tensor dw;
    if (ctx->saved_data["weight_gradient"].toBool()) dw = (dy * unit).sum(0);
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      const at::Tensor scaled = dy * saved[2].to(at::kFloat);
      const at::Tensor projection = (scaled * unit).mean(-1, true);
      dx = scaled.sub_(unit * projection).mul_(inverse).to(saved[0].scalar_type());
    }
    return {dx, dw, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const Weight& weight, double epsilon) {
  return RmsNorm::apply(x, weight.parameter(), weight.compute.detach(), epsilon);
}

}  // namespace emoe::worker
