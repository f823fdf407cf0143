#include "worker/weights/rounding.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

// Against the same with one operator after the other.
void expect_plain(const at::Tensor& original, const at::Tensor& wide, at::ScalarType type) {
  const auto rounded = round_change("w", original, wide, type);
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  EXPECT_TRUE(at::equal(rounded->stored, wide.to(type)));
  EXPECT_EQ(rounded->stored.scalar_type(), type);
  const at::Tensor delta = wide - original.to(at::kFloat);
  EXPECT_EQ(rounded->max_abs_delta, delta.abs().max().item<double>());
  const double norm = delta.to(at::kDouble).norm().item<double>();
  EXPECT_NEAR(rounded->delta_norm, norm, 1e-12 * norm);
  const at::Tensor back = wide.to(type).to(at::kFloat);
  EXPECT_EQ(rounded->cost.max_abs, (back - wide).abs().max().item<double>());
  const double lost = (back - wide).to(at::kDouble).norm().item<double>();
  EXPECT_NEAR(rounded->cost.norm, lost, 1e-12 * lost);
  EXPECT_EQ(rounded->cost.flushed, back.eq(0).logical_and(wide.ne(0)).sum().item<int64_t>());
  Rounding cost;
  EXPECT_TRUE(at::equal(round_to("w", wide, type, cost).value(), rounded->stored));
  EXPECT_EQ(cost.max_abs, rounded->cost.max_abs);
  EXPECT_EQ(cost.norm, rounded->cost.norm);
  EXPECT_EQ(cost.flushed, rounded->cost.flushed);
}

// Fewer values than a group, blocks that do not come out even, more than one block.
TEST(Rounding, equals_one_operator_after_the_other) {
  at::manual_seed(3);
  const std::vector<std::vector<int64_t>> shapes{{1}, {3, 5}, {16, 16}, {129, 131}, {70, 1000}};
  for (const std::vector<int64_t>& shape : shapes) {
    for (const at::ScalarType stored : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
      const at::Tensor original = (at::randn(shape) * 0.02).to(stored);
      // From what fp16 flushes to 0 up to ordinary values.
      at::Tensor wide = original.to(at::kFloat) + at::randn(shape) * 0.01;
      wide = wide * at::pow(10.0, at::rand(shape) * -9.0);
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
        expect_plain(original, wide, type);
      }
    }
  }
  const at::Tensor columns = at::randn({40, 30}).t();  // not in memory order
  expect_plain(columns.to(at::kBFloat16), columns * 1.5, at::kHalf);
}

TEST(Rounding, of_nothing_is_nothing) {
  const auto rounded =
      round_change("w", at::empty({0, 4}), at::empty({0, 4}), at::kBFloat16).value();
  EXPECT_EQ(rounded.stored.sizes(), (at::IntArrayRef{0, 4}));
  EXPECT_EQ(rounded.max_abs_delta, 0.0);
  EXPECT_EQ(rounded.cost.max_abs, 0.0);
}

TEST(Rounding, finds_what_no_number_stands_for) {
  for (const int64_t place : {0, 17, 16383, 16384, 20000}) {
    const at::Tensor original = at::zeros({20001});
    at::Tensor wide = at::ones({20001});
    wide[place] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(round_change("w", original, wide, at::kHalf).status().code(),
              StatusCode::kOutOfRange);
    // Nobody changed it: it stays what it is.
    const auto kept = round_change("w", {}, wide, at::kHalf).value();
    EXPECT_TRUE(std::isnan(kept.stored[place].item<float>()));
    EXPECT_TRUE(std::isnan(kept.cost.max_abs));
    wide[place] = std::numeric_limits<float>::infinity();
    EXPECT_EQ(round_change("w", original, wide, at::kHalf).status().code(),
              StatusCode::kOutOfRange);
    EXPECT_TRUE(std::isinf(round_change("w", {}, wide, at::kHalf)->stored[place].item<float>()));
    wide[place] = -70000.0F;
    const Status beyond = round_change("w", original, wide, at::kHalf).status();
    EXPECT_EQ(beyond.code(), StatusCode::kFailedPrecondition);
    EXPECT_NE(beyond.message().find("1 of its 20001 values"), std::string::npos) << beyond;
    EXPECT_NE(beyond.message().find("-70000"), std::string::npos) << beyond;
    EXPECT_TRUE(round_change("w", original, wide, at::kBFloat16).ok());
  }
}

}  // namespace
}  // namespace emoe::worker
