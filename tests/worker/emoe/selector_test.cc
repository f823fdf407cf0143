#include "worker/emoe/selector.h"

#include <cmath>
#include <stdexcept>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

at::Tensor ints(std::vector<std::vector<int32_t>> rows) {
  std::vector<at::Tensor> tensors;
  for (const auto& row : rows) tensors.push_back(at::tensor(row, at::kInt));
  return at::stack(tensors);
}

at::Tensor scores() {
  return at::stack({at::tensor({0.5F, -1.0F, 2.0F, 1.0F}), at::tensor({0.0F, 0.0F, 0.0F, 0.0F}),
                    at::tensor({1.0F, 3.0F, 3.0F, 2.0F})});
}

TEST(Selector, TopTakesTheLargestAndTiesTheLowerIndex) {
  const Selection two = select_experts(scores(), 2, Selector::top, true);
  EXPECT_TRUE(at::equal(two.chosen, ints({{2, 3}, {0, 1}, {1, 2}})));
  EXPECT_TRUE(at::equal(two.margin, at::tensor({0.5F, 0.0F, 1.0F})));
  const Selection one = select_experts(scores(), 1, Selector::top, true);
  EXPECT_TRUE(at::equal(one.chosen, ints({{2}, {0}, {1}})));
}

TEST(Selector, BottomTakesTheSmallest) {
  const Selection two = select_experts(scores(), 2, Selector::bottom, true);
  EXPECT_TRUE(at::equal(two.chosen, ints({{0, 1}, {0, 1}, {0, 3}})));
  EXPECT_TRUE(at::equal(two.margin, at::tensor({0.5F, 0.0F, 1.0F})));
}

TEST(Selector, NotTopTakesAllOthers) {
  const Selection one = select_experts(scores(), 1, Selector::not_top, true);
  EXPECT_TRUE(at::equal(one.chosen, ints({{0, 1, 3}, {1, 2, 3}, {0, 2, 3}})));
  const Selection none = select_experts(scores(), 4, Selector::not_top, true);
  EXPECT_EQ(none.chosen.size(1), 0);
  EXPECT_FALSE(none.mask.any().item<bool>());
}

TEST(Selector, MaskIsTheChosenOnes) {
  for (const Selector selector : {Selector::top, Selector::bottom, Selector::not_top}) {
    for (const int64_t k : {1, 2, 3, 4}) {
      const at::Tensor values = at::rand({17, 4});
      const Selection with = select_experts(values, k, selector, true);
      at::Tensor mask = at::zeros({17, 4}, at::kBool);
      mask.scatter_(1, with.chosen.to(at::kLong), true);
      EXPECT_TRUE(at::equal(mask, with.mask));
      EXPECT_TRUE(at::equal(select_experts(values, k, selector, false).mask, with.mask));
    }
  }
}

// Agreement with a plain stable sort on many rows with many ties.
TEST(Selector, ManyTies) {
  const at::Tensor values = at::randint(0, 5, {500, 32}).to(at::kFloat);
  for (const int64_t k : {1, 7, 16, 31}) {
    const Selection selection = select_experts(values, k, Selector::top, true);
    for (int64_t t = 0; t < 500; ++t) {
      std::vector<int32_t> order(32);
      for (int32_t e = 0; e < 32; ++e) order[static_cast<size_t>(e)] = e;
      const auto* row = values.const_data_ptr<float>() + t * 32;
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      order.resize(static_cast<size_t>(k));
      std::sort(order.begin(), order.end());
      ASSERT_TRUE(at::equal(selection.chosen[t], at::tensor(order, at::kInt))) << t;
    }
  }
}

TEST(Selector, AllExpertsHaveNoMargin) {
  const Selection all = select_experts(scores(), 4, Selector::top, true);
  EXPECT_TRUE(all.mask.all().item<bool>());
  EXPECT_TRUE(std::isinf(all.margin[0].item<float>()));
}

TEST(Selector, ScoresAreBlockMeansInFp32WithoutGradient) {
  const at::Tensor gate = at::randn({5, 12}).set_requires_grad(true);
  const at::Tensor result = expert_scores(gate, 3);
  EXPECT_FALSE(result.requires_grad());
  EXPECT_TRUE(at::allclose(result.select(1, 1), gate.detach().narrow(1, 4, 4).mean(1)));
  EXPECT_EQ(expert_scores(gate.to(at::kBFloat16), 3).scalar_type(), at::kFloat);
}

TEST(Selector, ImpossibleValuesAreRefused) {
  EXPECT_THROW((void)expert_scores(at::zeros({2, 12}), 5), std::invalid_argument);
  EXPECT_THROW((void)select_experts(scores(), 0, Selector::top, false), std::invalid_argument);
  EXPECT_THROW((void)select_experts(scores(), 5, Selector::top, false), std::invalid_argument);
}

}  // namespace
}  // namespace emoe::worker
