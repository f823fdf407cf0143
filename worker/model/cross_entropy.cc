#include "worker/model/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/device_kernels.h"
#include "worker/model/kernels/with_row_kernels.h"
#include "worker/model/products.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void store_value(float& place, float value) {
  place = value;
}
void store_value(Bf16& place, float value) {
  place.bits = c10::BFloat16(value).x;
}

// Calls call(first, count) for all rows of `hidden`, as many at a time as have about 32 MiB of fp32
// logits, 512 MiB on a GPU: enough for the product to run at full speed.
template <typename Call>
void for_chunks(const at::Tensor& hidden, int64_t vocabulary, const Call& call) {
  const int64_t rows = hidden.size(0);
  const int64_t logits = int64_t{hidden.is_cpu() ? 8 : 128} << 20;
  const int64_t most = std::clamp<int64_t>(logits / vocabulary, 64, 4096);
  for (int64_t first = 0; first < rows; first += most) call(first, std::min(most, rows - first));
}

// Losses [m] fp32 of logits [m, vocab]. With weights [m] the logits become the gradient
// weights * (softmax - one-hot), in place.
template <typename T>
void row_losses(const RowKernels<T>& kernels, at::Tensor& logits, const at::Tensor& targets,
                const at::Tensor& weights, at::Tensor& losses) {
  const int64_t size = logits.size(1);
  auto* data = static_cast<T*>(logits.mutable_data_ptr());
  const auto* target = targets.const_data_ptr<int64_t>();
  const float* weight = weights.defined() ? weights.const_data_ptr<float>() : nullptr;
  auto* loss = losses.mutable_data_ptr<float>();
  const auto target_logits = logits.gather(-1, targets.unsqueeze(1)).to(at::kFloat);
  const auto* of_target = target_logits.const_data_ptr<float>();
  at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      T* row = data + t * size;
      float largest = 0.0F;
      float sum = 0.0F;
      kernels.softmax_sums(row, size, &largest, &sum);
      loss[t] = std::log(sum) + (largest - of_target[t]);
      if (weight == nullptr) continue;
      // The target's own entry, softmax - 1, is made apart: it must not round twice.
      const float p = std::exp(-loss[t]);
      kernels.softmax_scale(row, size, largest, weight[t] / sum);
      store_value(row[target[t]], (p - 1.0F) * weight[t]);
    }
  });
}

// As row_losses, for any device and dtype.
void plain_losses(at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                  at::Tensor& losses) {
  const at::Tensor log_p = logits.to(at::kFloat).log_softmax(-1);
  losses.copy_(log_p.gather(-1, targets.unsqueeze(1)).squeeze(1).neg());
  if (!weights.defined()) return;
  at::Tensor gradient = log_p.exp().mul_(weights.unsqueeze(1));
  gradient.scatter_add_(-1, targets.unsqueeze(1), -weights.unsqueeze(1));
  logits.copy_(gradient);
}

// {losses [m] fp32, gradient [m, vocab] of the weighted losses where weights are given}.
std::pair<at::Tensor, at::Tensor> chunk_losses(const at::Tensor& hidden, const WeightMatrix& head,
                                               const at::Tensor& targets,
                                               const at::Tensor& weights) {
  at::Tensor logits = head.product(hidden);
  at::Tensor losses = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat));
  const bool done = with_row_kernels(
      logits, [&](const auto& kernels) { row_losses(kernels, logits, targets, weights, losses); });
  if (done) return {losses, logits};
  const DeviceKernels* kernels = kernels_for(logits);
  if (kernels == nullptr) {
    plain_losses(logits, targets, weights, losses);
    return {losses, logits};
  }
  run_kernel(logits, kernels->losses,
             LossCall{.type = element_of(logits),
                      .logits = logits.mutable_data_ptr(),
                      .targets = targets.const_data_ptr<int64_t>(),
                      .weights = weights.defined() ? weights.const_data_ptr<float>() : nullptr,
                      .losses = losses.mutable_data_ptr<float>(),
                      .rows = logits.size(0),
                      .size = logits.size(1)});
  return {losses, logits};
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                            const std::optional<at::Tensor>& master, const Weight& head,
                            const at::Tensor& targets, const at::Tensor& weights,
                            bool needs_gradient) {
    const auto matrix = head.matrix();
    const bool head_gradient = needs_gradient && master.has_value();
    at::Tensor total = at::zeros({}, weights.options().dtype(at::kDouble));
    at::Tensor d_hidden = needs_gradient ? at::empty_like(hidden) : at::Tensor();
    at::Tensor d_head = head_gradient ? at::zeros_like(*master) : at::Tensor();
    for_chunks(hidden, head.compute.size(0), [&](int64_t begin, int64_t count) {
      const at::Tensor x = hidden.narrow(0, begin, count);
      const at::Tensor target = targets.narrow(0, begin, count);
      const at::Tensor weight = weights.narrow(0, begin, count);
      const auto [losses, gradient] =
          chunk_losses(x, *matrix, target, needs_gradient ? weight : at::Tensor());
      total += (losses.to(at::kDouble) * weight).sum();
      if (!needs_gradient) return;
      at::Tensor dx;
      matrix->add_transposed_product(gradient, dx);
      d_hidden.narrow(0, begin, count).copy_(dx);
      if (head_gradient) add_weight_gradient(gradient, x, d_head);
    });
    ctx->save_for_backward({d_hidden, d_head});
    return total.to(at::kFloat);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    at::Tensor d_hidden;
    at::Tensor d_head;
    if (saved[0].defined()) d_hidden = (saved[0] * grads[0]).to(saved[0].scalar_type());
    if (saved[1].defined()) d_head = saved[1] * grads[0];
    return {d_hidden, d_head, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const Weight& head,
                                const at::Tensor& targets, const at::Tensor& weights) {
  const bool needs_gradient =
      at::GradMode::is_enabled() && (hidden.requires_grad() || head.trainable());
  return LinearCrossEntropy::apply(hidden, head.parameter(), head, targets, weights,
                                   needs_gradient);
}

at::Tensor linear_cross_entropies(const at::Tensor& hidden, const Weight& head,
                                  const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  at::Tensor losses = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat));
  const auto matrix = head.matrix();
  for_chunks(hidden, head.compute.size(0), [&](int64_t begin, int64_t count) {
    const auto chunk = chunk_losses(hidden.narrow(0, begin, count), *matrix,
                                    targets.narrow(0, begin, count), at::Tensor());
    losses.narrow(0, begin, count).copy_(chunk.first);
  });
  return losses;
}

}  // namespace emoe::worker
