#include "worker/model/cross_entropy.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows whose fp32 logits take about 32 MiB; enough rows for the product to run at full speed.
int64_t chunk_rows(int64_t vocabulary) {
  return std::clamp<int64_t>((int64_t{8} << 20) / vocabulary, 64, 4096);
}

struct Chunk {
  at::Tensor losses;        // [m, 1]
  at::Tensor exponentials;  // [m, vocab] fp32, exp(logit - largest)
  at::Tensor sums;          // [m, 1] of the exponentials
};

// One exponential per logit, in place: LibTorch's logsumexp takes several times as long.
Chunk chunk_losses(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
  Chunk chunk;
  at::Tensor logits = at::linear(hidden, head).to(at::kFloat);
  logits.sub_(logits.amax(-1, true));
  const at::Tensor target_logits = logits.gather(-1, targets.unsqueeze(1));
  chunk.exponentials = logits.exp_();
  chunk.sums = chunk.exponentials.sum(-1, true);
  chunk.losses = chunk.sums.log() - target_logits;
  return chunk;
}

// weights * (softmax - one-hot), overwriting the exponentials.
at::Tensor logit_gradient(Chunk& chunk, const at::Tensor& targets, const at::Tensor& weights) {
  at::Tensor gradient = chunk.exponentials.mul_(weights / chunk.sums);
  gradient.scatter_add_(-1, targets.unsqueeze(1), -weights);
  return gradient;
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                            const std::optional<at::Tensor>& master, const at::Tensor& head,
                            const at::Tensor& targets, const at::Tensor& weights,
                            bool needs_gradient) {
    const bool head_gradient = needs_gradient && master.has_value();
    at::Tensor total = at::zeros({}, weights.options().dtype(at::kDouble));
    at::Tensor d_hidden = needs_gradient ? at::empty_like(hidden) : at::Tensor();
    at::Tensor d_head = head_gradient ? at::zeros_like(*master) : at::Tensor();
    const int64_t rows = chunk_rows(head.size(0));
    for (int64_t begin = 0; begin < hidden.size(0); begin += rows) {
      const int64_t count = std::min(rows, hidden.size(0) - begin);
      const at::Tensor x = hidden.narrow(0, begin, count);
      const at::Tensor target = targets.narrow(0, begin, count);
      const at::Tensor weight = weights.narrow(0, begin, count).unsqueeze(1);
      Chunk chunk = chunk_losses(x, head, target);
      total += (chunk.losses.to(at::kDouble) * weight).sum();
      if (!needs_gradient) continue;
      const at::Tensor g = logit_gradient(chunk, target, weight).to(hidden.scalar_type());
      at::Tensor slice = d_hidden.narrow(0, begin, count);
      at::mm_out(slice, g, head);
      if (head_gradient) d_head.add_(at::mm(g.t(), x));
    }
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
  return LinearCrossEntropy::apply(hidden, head.parameter(), head.compute.detach(), targets,
                                   weights, needs_gradient);
}

at::Tensor linear_cross_entropies(const at::Tensor& hidden, const Weight& head,
                                  const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  at::Tensor losses = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat));
  const int64_t rows = chunk_rows(head.compute.size(0));
  for (int64_t begin = 0; begin < hidden.size(0); begin += rows) {
    const int64_t count = std::min(rows, hidden.size(0) - begin);
    const Chunk chunk =
        chunk_losses(hidden.narrow(0, begin, count), head.compute, targets.narrow(0, begin, count));
    losses.narrow(0, begin, count).copy_(chunk.losses.squeeze(1));
  }
  return losses;
}

}  // namespace emoe::worker
