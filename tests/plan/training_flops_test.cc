#include "plan/training_flops.h"

#include <gtest/gtest.h>

#include "tests/format/tiny_config.h"

namespace emoe {
namespace {

TEST(TrainingFlops, CountsProductsForwardAndBackward) {
  const DecoderConfig config =
      testing::tiny_config({.hidden = 64, .d_ff = 172, .layers = 5, .heads = 8, .vocab = 512});
  // A layer's linears have 64*64*2 + 64*32*2 + 3*64*172 = 45312 elements, the head 512*64 = 32768.
  const double linears = 5 * 45312.0;
  const StepFigures step{.tokens = 10, .target_tokens = 4};
  EXPECT_EQ(TrainingFlops(config, true, 0).of(step), 6 * (10 * linears + 4 * 32768.0));
  EXPECT_EQ(TrainingFlops(config, false, 1000).of(step),
            4 * (10 * linears + 4 * 32768.0) + 6 * 10 * 1000.0);
  // One row of 10: 5 layers, 8 heads of 8; 2 products and sums per pair, half of the pairs.
  EXPECT_EQ(TrainingFlops(config, false, 1000).of({.squared_lengths = 100}),
            3 * 5 * 8 * (2 * 2 * 8) * 100 / 2.0);
}

}  // namespace
}  // namespace emoe
