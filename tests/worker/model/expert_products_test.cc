// Sums of experts over tokens in groups, against sums in double and, bit for bit, against tokens by themselves.
#include "worker/model/expert_products.h"

#include <algorithm>
#include <string>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/worker/model/engine_fixture.h"

namespace emoe::worker {
namespace {

using testing::relative_difference;

struct Shape {
  int64_t tokens, experts, neurons, columns;
  double used;  // the share of the experts that a token has
};

// Of some tokens that have a few experts, of others that have many, and of some that have none.
at::Tensor made_up_mask(const Shape& shape) {
  at::Tensor share = at::rand({shape.tokens, 1}) * 2 * shape.used;
  share.narrow(0, 0, std::min<int64_t>(shape.tokens, 3)).zero_();
  return at::rand({shape.tokens, shape.experts}) < share;
}

at::Tensor in_double(const ExpertTokens& chosen, const at::Tensor& activations, const at::Tensor& w,
                     const at::Tensor& y) {
  at::Tensor sum = y.to(at::kDouble);
  const int64_t size = activations.size(1);
  for (int64_t e = 0; e < chosen.experts(); ++e) {
    const at::Tensor block = w.narrow(0, e * size, size).to(at::kDouble);
    for (int64_t p = chosen.begin[e]; p < chosen.begin[e + 1]; ++p) {
      const at::Tensor row = activations[p].to(at::kDouble).unsqueeze(0);
      sum[chosen.tokens[p]].add_(at::mm(row, block)[0]);
    }
  }
  return sum;
}

class TokensFromExperts : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::manual_seed(3); }

  // Of all tokens at once what each has by itself, where no token has a group.
  template <typename Add>
  static void expect_bits_of_single_tokens(const at::Tensor& mask, const at::Tensor& rows,
                                           const at::Tensor& y, const at::Tensor& sum,
                                           const Add& add) {
    for (int64_t t = 0; t < mask.size(0); t += 7) {
      at::Tensor alone = at::zeros_like(mask);
      alone[t].copy_(mask[t]);
      const ExpertTokens chosen(alone);
      at::Tensor own = y.clone();
      add(chosen, rows.index({mask.t().nonzero().select(1, 1) == t}), own);
      EXPECT_TRUE(at::equal(own[t], sum[t])) << "token " << t;
    }
  }
};

TEST_P(TokensFromExperts, equal_sums_in_double_and_single_tokens) {
  for (const Shape& shape :
       {Shape{1, 1, 1, 1, 1.0}, Shape{300, 5, 7, 50, 0.5}, Shape{260, 64, 2, 97, 0.25},
        Shape{500, 3, 32, 200, 0.5}, Shape{130, 2, 129, 49, 0.5}, Shape{400, 16, 1, 8, 0.05}}) {
    SCOPED_TRACE(::testing::Message() << shape.tokens << " tokens, " << shape.experts << " x "
                                      << shape.neurons << " neurons");
    const at::Tensor mask = made_up_mask(shape);
    const ExpertTokens chosen(mask);
    const int64_t neurons = shape.experts * shape.neurons;
    const at::Tensor rows = at::randn({chosen.rows(), shape.neurons}).to(GetParam());
    const at::Tensor y = at::randn({shape.tokens, shape.columns});
    for (const bool turned : {false, true}) {
      at::Tensor w = at::randn({neurons, shape.columns}).to(GetParam());
      if (turned) w = w.t().contiguous().t();
      at::Tensor sum = y.clone();
      tokens_from_experts(chosen, rows, w, sum);
      EXPECT_LT(relative_difference(sum, in_double(chosen, rows, w, y)), 1e-5);
      expect_bits_of_single_tokens(
          mask, rows, y, sum, [&](const ExpertTokens& one, const at::Tensor& a, at::Tensor& own) {
            tokens_from_experts(one, a, w, own);
          });
    }
    const at::Tensor w = at::randn({neurons, shape.columns}).to(GetParam());
    const at::Tensor behind = at::randn({neurons, shape.columns}).to(GetParam());
    const at::Tensor both = at::randn({chosen.rows(), 2 * shape.neurons}).to(GetParam());
    at::Tensor sum = y.clone();
    tokens_from_expert_pairs(chosen, both, w, behind, sum);
    const at::Tensor first = in_double(chosen, both.narrow(1, 0, shape.neurons), w, y);
    EXPECT_LT(
        relative_difference(
            sum, in_double(chosen, both.narrow(1, shape.neurons, shape.neurons), behind, first)),
        1e-5);
    expect_bits_of_single_tokens(
        mask, both, y, sum, [&](const ExpertTokens& one, const at::Tensor& a, at::Tensor& own) {
          tokens_from_expert_pairs(one, a, w, behind, own);
        });
  }
}

// fp32 rows beside bf16 weights, as what is rounded once has them.
TEST_P(TokensFromExperts, rows_of_another_type) {
  const Shape shape{200, 8, 6, 60, 0.5};
  const at::Tensor mask = made_up_mask(shape);
  const ExpertTokens chosen(mask);
  const at::Tensor rows = at::randn({chosen.rows(), shape.neurons});
  const at::Tensor w = at::randn({shape.experts * shape.neurons, shape.columns}).to(GetParam());
  const at::Tensor y = at::randn({shape.tokens, shape.columns});
  at::Tensor sum = y.clone();
  tokens_from_experts(chosen, rows, w, sum);
  EXPECT_LT(relative_difference(sum, in_double(chosen, rows, w, y)), 1e-5);
}

TEST_P(TokensFromExperts, no_rows) {
  const ExpertTokens chosen(at::zeros({5, 4}, at::kBool));
  const at::Tensor y = at::randn({5, 9});
  at::Tensor sum = y.clone();
  tokens_from_experts(chosen, at::empty({0, 3}).to(GetParam()), at::randn({12, 9}).to(GetParam()),
                      sum);
  EXPECT_TRUE(at::equal(sum, y));
}

INSTANTIATE_TEST_SUITE_P(Types, TokensFromExperts, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& type) { return std::string(at::toString(type.param)); });

}  // namespace
}  // namespace emoe::worker
