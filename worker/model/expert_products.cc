#include "worker/model/expert_products.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "worker/model/block_operands.h"

namespace emoe::worker {
namespace {

// A thread writes this many columns of the tokens' rows for one expert after another: they stay in
// its cache.
constexpr int64_t kColumns = 96;
constexpr int64_t kPanel = 48;  // or a multiple of this

// Bf16 rows as they are where the processor multiplies them, else fp32.
at::Tensor as_multiplied(const at::Tensor& rows, const at::Tensor& w) {
  const bool halves = rows.scalar_type() == at::kBFloat16 && w.scalar_type() == at::kBFloat16 &&
                      block_product_kernel().multiplies_halves;
  return halves ? rows.contiguous() : rows.to(at::kFloat).contiguous();
}

// The rows of each expert among those from `first` to `last`.
template <typename Part>
void for_experts(const ExpertTokens& chosen, int64_t first, int64_t last, const Part& part) {
  for (int64_t e = 0; e < chosen.experts(); ++e) {
    const int64_t begin = std::max(first, chosen.begin[e]);
    const int64_t end = std::min(last, chosen.begin[e + 1]);
    if (begin < end) part(e, begin, end);
  }
}

// See tokens_from_experts() and, where `behind` is defined, tokens_from_expert_pairs().
void add_to_tokens(const ExpertTokens& chosen, const at::Tensor& activations, const at::Tensor& w,
                   const at::Tensor& behind, at::Tensor& y) {
  const int64_t size = w.size(0) / chosen.experts();
  const int64_t columns = w.size(1);
  const at::Tensor rows = as_multiplied(activations, w);
  auto* tokens = y.mutable_data_ptr<float>();
  const int64_t share = (columns / at::get_num_threads() + kPanel - 1) / kPanel * kPanel;
  const int64_t each = std::clamp(share, kPanel, kColumns);
  at::parallel_for(0, (columns + each - 1) / each, 1, [&](int64_t first, int64_t last) {
    BlockOperands operands;
    for (int64_t column = first * each; column < std::min(last * each, columns); column += each) {
      for_experts(chosen, 0, chosen.rows(), [&](int64_t e, int64_t begin, int64_t end) {
        const int64_t width = std::min(each, columns - column);
        BlockProduct product{.m = end - begin, .n = width, .k = rows.size(1), .add = true};
        operands.set_a(product, rows, [&](int64_t i) { return begin + i; });
        BlockOperands::set_b(product, w, e * size, column);
        if (behind.defined()) BlockOperands::set_b_behind(product, behind, e * size, column);
        operands.set_c(product, tokens + column, y.stride(0),
                       [&](int64_t i) { return chosen.tokens[begin + i]; });
        operands.run(product);
      });
    }
  });
}

}  // namespace

ExpertTokens::ExpertTokens(const at::Tensor& mask) : begin(mask.size(1) + 1) {
  const at::Tensor by_expert = mask.t().contiguous();
  const auto* used = by_expert.const_data_ptr<bool>();
  const int64_t count = mask.size(0);
  for (int64_t e = 0; e < mask.size(1); ++e) {
    for (int64_t t = 0; t < count; ++t) {
      if (used[e * count + t]) tokens.push_back(static_cast<int32_t>(t));
    }
    begin[e + 1] = rows();
  }
}

at::Tensor ExpertTokens::expert_of_rows() const {
  const at::Tensor counts = at::tensor(at::IntArrayRef(begin)).diff();
  return at::repeat_interleave(counts);
}

void experts_from_tokens(const ExpertTokens& chosen, const at::Tensor& x, const at::Tensor& w,
                         at::Tensor& out) {
  const int64_t size = w.size(0) / chosen.experts();
  const bool add = out.defined();
  if (!add) out = at::empty({chosen.rows(), size}, x.options().dtype(at::kFloat));
  const at::Tensor tokens = as_multiplied(x, w);
  auto* activations = out.mutable_data_ptr<float>();
  // Threads share the rows evenly, however the experts share them.
  at::parallel_for(0, chosen.rows(), 64, [&](int64_t first, int64_t last) {
    BlockOperands operands;
    for_experts(chosen, first, last, [&](int64_t e, int64_t begin, int64_t end) {
      BlockProduct product{.m = end - begin, .n = size, .k = w.size(1), .add = add};
      operands.set_a(product, tokens, [&](int64_t i) { return chosen.tokens[begin + i]; });
      BlockOperands::set_b(product, w, e * size, 0, /*transposed=*/true);
      operands.set_c(product, activations, size, [&](int64_t i) { return begin + i; });
      operands.run(product);
    });
  });
}

void tokens_from_experts(const ExpertTokens& chosen, const at::Tensor& activations,
                         const at::Tensor& w, at::Tensor& y) {
  add_to_tokens(chosen, activations, w, {}, y);
}

void tokens_from_expert_pairs(const ExpertTokens& chosen, const at::Tensor& activations,
                              const at::Tensor& w, const at::Tensor& behind, at::Tensor& y) {
  // Rows of both are read with one stride, and as lines.
  if (w.strides() == behind.strides() && w.stride(1) == 1) {
    return add_to_tokens(chosen, activations, w, behind, y);
  }
  const int64_t size = w.size(0) / chosen.experts();
  add_to_tokens(chosen, activations.narrow(1, 0, size), w, {}, y);
  add_to_tokens(chosen, activations.narrow(1, size, size), behind, {}, y);
}

at::Tensor expert_weight_gradient(const ExpertTokens& chosen, const at::Tensor& left,
                                  const at::Tensor& right) {
  const int64_t size = left.size(1);
  const int64_t columns = right.size(1);
  at::Tensor gradient = at::zeros({chosen.experts() * size, columns}, right.options());
  const auto* tokens = right.const_data_ptr<float>();
  auto* out = gradient.mutable_data_ptr<float>();
  at::parallel_for(0, chosen.experts(), 1, [&](int64_t first, int64_t last) {
    BlockOperands operands;
    for (int64_t e = first; e < last; ++e) {
      const int64_t begin = chosen.begin[e];
      const int64_t count = chosen.begin[e + 1] - begin;
      const at::Tensor turned = left.narrow(0, begin, count).t().contiguous();
      BlockProduct product{.m = size, .n = columns, .k = count};
      operands.set_a(product, turned, [](int64_t i) { return i; });
      product.b = tokens;
      product.b_k_stride = right.stride(0);
      product.b_n_stride = 1;
      product.b_rows = chosen.tokens.data() + begin;
      operands.set_c(product, out, columns, [&](int64_t i) { return e * size + i; });
      operands.run(product);
    }
  });
  return gradient;
}

}  // namespace emoe::worker
