#include "worker/emoe/selector.h"

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

at::Tensor chosen(const at::Tensor& values, int64_t top_k, Selector selector) {
  return expert_indices(expert_mask(values, {values.size(1), top_k, selector}));
}

TEST(Selector, TopTakesTheLargestAndTiesTheLowerIndex) {
  EXPECT_TRUE(at::equal(chosen(scores(), 2, Selector::top), ints({{2, 3}, {0, 1}, {1, 2}})));
  EXPECT_TRUE(at::equal(chosen(scores(), 1, Selector::top), ints({{2}, {0}, {1}})));
}

TEST(Selector, BottomTakesTheSmallest) {
  EXPECT_TRUE(at::equal(chosen(scores(), 2, Selector::bottom), ints({{0, 1}, {0, 1}, {0, 3}})));
}

TEST(Selector, NotTopTakesAllOthers) {
  const at::Tensor one = chosen(scores(), 1, Selector::not_top);
  EXPECT_TRUE(at::equal(one, ints({{0, 1, 3}, {1, 2, 3}, {0, 2, 3}})));
  EXPECT_EQ(chosen(scores(), 4, Selector::not_top).sizes(), at::IntArrayRef({3, 0}));
}

// Agreement with a plain stable sort on many rows with many ties.
TEST(Selector, ManyTies) {
  const at::Tensor values = at::randint(0, 5, {500, 32}).to(at::kFloat);
  for (const int64_t k : {1, 7, 16, 31}) {
    const at::Tensor selected = chosen(values, k, Selector::top);
    for (int64_t t = 0; t < 500; ++t) {
      std::vector<int32_t> order(32);
      for (int32_t e = 0; e < 32; ++e) order[static_cast<size_t>(e)] = e;
      const auto* row = values.const_data_ptr<float>() + t * 32;
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      order.resize(static_cast<size_t>(k));
      std::sort(order.begin(), order.end());
      ASSERT_TRUE(at::equal(selected[t], at::tensor(order, at::kInt))) << t;
    }
  }
}

TEST(Selector, ImpossibleValuesAreRefused) {
  EXPECT_THROW(check_routing({5, 1}, 12), std::invalid_argument);
  EXPECT_THROW((void)expert_mask(scores(), {4, 0}), std::invalid_argument);
  EXPECT_THROW((void)expert_mask(scores(), {4, 5}), std::invalid_argument);
}

}  // namespace
}  // namespace emoe::worker
