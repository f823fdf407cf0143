#include "worker/model/training_flops.h"

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

TEST(TrainingFlops, CountsProductsForwardAndBackward) {
  LlamaConfig config;
  config.hidden_size = 64;
  config.intermediate_size = 172;
  config.num_hidden_layers = 5;
  config.num_attention_heads = 8;
  config.num_key_value_heads = 4;
  config.head_dim = 8;
  config.vocab_size = 512;
  // A layer's linears have 64*64*2 + 64*32*2 + 3*64*172 = 45312 elements, the head 512*64 = 32768.
  const double linears = 5 * 45312.0;
  TrainingWork work{.tokens = 10, .target_tokens = 4, .full = true};
  EXPECT_EQ(training_flops(config, work), 6 * (10 * linears + 4 * 32768.0));
  work.full = false;
  work.adapter_parameters = 1000;
  EXPECT_EQ(training_flops(config, work), 4 * (10 * linears + 4 * 32768.0) + 6 * 10 * 1000.0);
  // One row of 10: 5 layers, 8 heads of 8; 2 products and sums per pair, half of the pairs.
  work = {.squared_lengths = 100};
  EXPECT_EQ(training_flops(config, work), 3 * 5 * 8 * (2 * 2 * 8) * 100 / 2.0);
}

}  // namespace
}  // namespace emoe::worker
