#include "worker/model/flash_attention.h"

#include <optional>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <torch/csrc/autograd/custom_function.h>

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Fixed-order sums while it lives, and only then: other operators would take slower ways.
class DeterministicScope {
 public:
  DeterministicScope() : before_(at::globalContext().deterministicAlgorithms()) {
    // Else every new tensor is filled.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  }
  ~DeterministicScope() {
    at::globalContext().setDeterministicAlgorithms(before_, /*warn_only=*/false);
  }
  DeterministicScope(const DeterministicScope&) = delete;
  DeterministicScope& operator=(const DeterministicScope&) = delete;

 private:
  bool before_;
};

// Tokens before a token that it sees; nothing: all.
std::optional<int64_t> tokens_before(int64_t window) {
  return window == 0 ? std::nullopt : std::optional(window - 1);
}
std::optional<int64_t> tokens_after(int64_t window) {
  return window == 0 ? std::nullopt : std::optional<int64_t>(0);
}

class FlashAttention : public torch::autograd::Function<FlashAttention> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const at::Tensor& starts, int64_t longest,
                            int64_t window) {
    const auto [out, sums, state, unused, debug] = at::_flash_attention_forward(
        q, k, v, starts, starts, longest, longest, /*dropout_p=*/0.0, /*is_causal=*/true,
        /*return_debug_mask=*/false, /*scale=*/std::nullopt, tokens_before(window),
        tokens_after(window));
    ctx->save_for_backward({q, k, v, out, sums, starts, state, unused});
    ctx->saved_data["longest"] = longest;
    ctx->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const int64_t longest = ctx->saved_data["longest"].toInt();
    const int64_t window = ctx->saved_data["window"].toInt();
    const DeterministicScope fixed_order;
    auto [dq, dk, dv] = at::_flash_attention_backward(
        grads[0].contiguous(), saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], saved[5],
        longest, longest, /*dropout_p=*/0.0, /*is_causal=*/true, saved[6], saved[7],
        /*scale=*/std::nullopt, tokens_before(window), tokens_after(window));
    return {dq, dk, dv, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// [T, kv_heads, d] → [1, T, heads, d], each key head for the query heads that share it.
at::Tensor for_each_head(const at::Tensor& x, int64_t heads) {
  const int64_t shared = heads / x.size(1);
  return x.unsqueeze(2).expand({-1, -1, shared, -1}).reshape({1, x.size(0), heads, x.size(2)});
}

class EfficientAttention : public torch::autograd::Function<EfficientAttention> {
 public:
  static constexpr int64_t kCausal = 1;  // from the top left of each segment

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const at::Tensor& starts, int64_t longest) {
    const auto [out, sums, seed, offset, most_q, most_k] = at::_efficient_attention_forward(
        for_each_head(q, q.size(1)), for_each_head(k, q.size(1)), for_each_head(v, q.size(1)),
        /*bias=*/std::nullopt, starts, starts, longest, longest, /*dropout_p=*/0.0, kCausal,
        /*compute_log_sumexp=*/true);
    const at::Tensor y = out.squeeze(0);
    ctx->save_for_backward({q, k, v, y, sums, starts, seed, offset});
    ctx->saved_data["longest"] = longest;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const int64_t longest = ctx->saved_data["longest"].toInt();
    const int64_t heads = saved[0].size(1);
    const int64_t key_heads = saved[1].size(1);
    const auto [dq, dk, dv, no_bias] = at::_efficient_attention_backward(
        for_each_head(grads[0].contiguous(), heads), for_each_head(saved[0], heads),
        for_each_head(saved[1], heads), for_each_head(saved[2], heads), /*bias=*/std::nullopt,
        for_each_head(saved[3], heads), saved[5], saved[5], longest, longest, saved[4],
        /*dropout_p=*/0.0, saved[6], saved[7], kCausal, /*bias_requires_grad=*/false,
        /*scale=*/std::nullopt, /*num_splits_key=*/1);
    const auto of_key_heads = [&](const at::Tensor& d) {
      return d.squeeze(0).unflatten(1, {key_heads, heads / key_heads}).sum(2);
    };
    return {dq.squeeze(0), of_key_heads(dk), of_key_heads(dv), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool has_efficient_attention(const at::Tensor& q) {
  return !q.is_cpu() && q.scalar_type() == at::kFloat && q.size(2) % 8 == 0;
}

at::Tensor efficient_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& starts, int64_t longest) {
  return EfficientAttention::apply(q, k, v, starts, longest);
}

bool has_flash_attention(const at::Tensor& q) {
  const int64_t size = q.size(2);
  return !q.is_cpu() && (q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf) &&
         size % 8 == 0 && size <= 256;
}

at::Tensor flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& starts, int64_t longest, int64_t window) {
  return FlashAttention::apply(q, k, v, starts, longest, window);
}

std::vector<int32_t> segment_starts(const std::vector<int64_t>& lengths) {
  std::vector<int32_t> starts = {0};
  for (const int64_t length : lengths) {
    starts.push_back(starts.back() + static_cast<int32_t>(length));
  }
  return starts;
}

}  // namespace emoe::worker
