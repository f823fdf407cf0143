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

// Tokens in groups of neighbours, and which rows of each expert are theirs. Where a token's sum is short, it
// costs as much to fetch and to store as to make: the sums of a group, some columns wide, lie side by side in a
// near cache while one expert after the other adds to them, in the order that they have without groups.
class TokenGroups {
 public:
  // Of rows that add up `k` products each; no group where that is not short.
  TokenGroups(const ExpertTokens& chosen, int64_t tokens, int64_t k)
      : experts_(chosen.experts()), tokens_(tokens) {
    constexpr int64_t kShort = 128;
    constexpr int64_t kTokens = 256;
    constexpr int64_t kMeanRows = 32;  // but each expert shall have some rows of a group
    if (k > kShort || chosen.rows() == 0) return;
    size_ = std::max(kTokens, kMeanRows * experts_ * tokens / chosen.rows());
    count_ = (tokens + size_ - 1) / size_;
    for (int64_t group = 0; group <= count_; ++group) {
      for (int64_t e = 0; e < experts_; ++e) {
        const auto begin = chosen.tokens.begin() + chosen.begin[e];
        const auto end = chosen.tokens.begin() + chosen.begin[e + 1];
        rows_.push_back(std::lower_bound(begin, end, first(group)) - chosen.tokens.begin());
      }
    }
  }

  [[nodiscard]] int64_t count() const { return count_; }
  [[nodiscard]] int64_t size() const { return size_; }  // of all but the last
  // The group's tokens are those from first(group) to first(group + 1); an expert's rows of them likewise.
  [[nodiscard]] int64_t first(int64_t group) const { return std::min(group * size_, tokens_); }
  [[nodiscard]] int64_t first_row(int64_t group, int64_t e) const {
    return rows_[group * experts_ + e];
  }

 private:
  int64_t experts_;
  int64_t tokens_;
  int64_t size_ = 0;
  int64_t count_ = 0;
  std::vector<int64_t> rows_;  // [count + 1, experts]
};

// y += activations w, for the rows of one expert after another; see tokens_from_experts() and, where `behind`
// is defined, tokens_from_expert_pairs().
class TokenSums {
 public:
  TokenSums(const ExpertTokens& chosen, const at::Tensor& activations, const at::Tensor& w,
            const at::Tensor& behind, at::Tensor& y)
      : chosen_(chosen),
        w_(w),
        behind_(behind),
        rows_(as_multiplied(activations, w)),
        y_(y.mutable_data_ptr<float>()),
        stride_(y.stride(0)),
        groups_(chosen, y.size(0), rows_.size(1)) {}

  // A thread's part, `each` columns at a time.
  void add(int64_t first, int64_t last, int64_t each) const {
    BlockOperands operands;
    for (int64_t column = first; column < last; column += each) {
      const int64_t width = std::min(each, last - column);
      if (groups_.count() > 0) {
        add_by_groups(operands, column, width);
      } else {
        for_experts(chosen_, 0, chosen_.rows(), [&](int64_t e, int64_t begin, int64_t end) {
          BlockProduct product = weights_of(e, column, width);
          add_rows(operands, product, y_ + column, stride_, 0, begin, end);
        });
      }
    }
  }

 private:
  // The product without its rows.
  [[nodiscard]] BlockProduct weights_of(int64_t e, int64_t column, int64_t width) const {
    const int64_t size = w_.size(0) / chosen_.experts();
    BlockProduct product{.n = width, .k = rows_.size(1), .add = true};
    BlockOperands::set_b(product, w_, e * size, column);
    if (behind_.defined()) BlockOperands::set_b_behind(product, behind_, e * size, column);
    return product;
  }

  // Rows begin … end, to sums whose first is that of token `first`.
  void add_rows(BlockOperands& operands, BlockProduct& product, float* sums, int64_t stride,
                int64_t first, int64_t begin, int64_t end) const {
    product.m = end - begin;
    operands.set_a(product, rows_, [&](int64_t i) { return begin + i; });
    operands.set_c(product, sums, stride,
                   [&](int64_t i) { return chosen_.tokens[begin + i] - first; });
    operands.run(product);
  }

  void add_by_groups(BlockOperands& operands, int64_t column, int64_t width) const {
    std::vector<BlockProduct> products;
    for (int64_t e = 0; e < chosen_.experts(); ++e) {
      products.push_back(weights_of(e, column, width));
    }
    operands.pack(products, rows_.scalar_type());
    std::vector<float> sums(groups_.size() * width);
    for (int64_t group = 0; group < groups_.count(); ++group) {
      const int64_t first = groups_.first(group);
      const int64_t last = groups_.first(group + 1);
      for (int64_t t = first; t < last; ++t) {
        std::copy_n(y_ + t * stride_ + column, width, sums.data() + (t - first) * width);
      }
      for (int64_t e = 0; e < chosen_.experts(); ++e) {
        const int64_t begin = groups_.first_row(group, e);
        const int64_t end = groups_.first_row(group + 1, e);
        if (begin < end) add_rows(operands, products[e], sums.data(), width, first, begin, end);
      }
      for (int64_t t = first; t < last; ++t) {
        std::copy_n(sums.data() + (t - first) * width, width, y_ + t * stride_ + column);
      }
    }
  }

  const ExpertTokens& chosen_;
  const at::Tensor& w_;
  const at::Tensor& behind_;
  at::Tensor rows_;
  float* y_;
  int64_t stride_;
  TokenGroups groups_;
};

void add_to_tokens(const ExpertTokens& chosen, const at::Tensor& activations, const at::Tensor& w,
                   const at::Tensor& behind, at::Tensor& y) {
  const TokenSums sums(chosen, activations, w, behind, y);
  const int64_t columns = w.size(1);
  const int64_t share = (columns / at::get_num_threads() + kPanel - 1) / kPanel * kPanel;
  const int64_t each = std::clamp(share, kPanel, kColumns);
  at::parallel_for(0, (columns + each - 1) / each, 1, [&](int64_t first, int64_t last) {
    sums.add(first * each, std::min(last * each, columns), each);
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
