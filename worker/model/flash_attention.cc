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

}  // namespace

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
