#include "plan/micro_batch_tokens.h"

#include <gtest/gtest.h>

namespace emoe {
namespace {

constexpr int64_t kGb = 1'000'000'000;

DecoderConfig llama_7b() {
  DecoderConfig config;
  config.hidden_size = 4096;
  config.intermediate_size = 11008;
  config.num_hidden_layers = 32;
  config.num_attention_heads = config.num_key_value_heads = 32;
  config.head_dim = 128;
  config.vocab_size = 32000;
  config.max_position_embeddings = 4096;
  return config;
}

RankShape lora_on_gpu() {
  RankShape shape;
  shape.cuda = true;
  shape.step.dtype_bytes = 2;
  shape.step.lora_rank = 8;
  shape.step.lora_targets = {"q_proj", "v_proj"};
  return shape;
}

TEST(MicroBatchTokens, OfACpuAreFixed) {
  RankShape shape = lora_on_gpu();
  shape.cuda = false;
  EXPECT_EQ(micro_batch_tokens(llama_7b(), shape, {.device_bytes = 80 * kGb, .longest_row = 512}),
            4096);
  EXPECT_EQ(micro_batch_tokens(llama_7b(), shape, {.longest_row = 5000}), 5000);
  shape.cuda = true;
  EXPECT_EQ(micro_batch_tokens(llama_7b(), shape, {.longest_row = 512}), 4096)
      << "its memory is not known";
}

TEST(MicroBatchTokens, FillAGpu) {
  const DecoderConfig config = llama_7b();
  int64_t before = 0;
  for (const int64_t gigabytes : {16, 24, 40, 80, 141}) {
    const GpuPasses passes{.device_bytes = gigabytes * kGb, .longest_row = 512};
    const int64_t tokens = micro_batch_tokens(config, lora_on_gpu(), passes);
    EXPECT_GE(tokens, before) << gigabytes;
    before = tokens;
    // What was chosen fits, if anything does; twice as much would not, or is of no use.
    const auto takes = [&](int64_t count) {
      return rank_memory(config, lora_on_gpu(), {{count, count}}).total();
    };
    if (tokens > 1024) {
      EXPECT_LE(takes(tokens), passes.device_bytes * 9 / 10) << gigabytes;
    }
    if (tokens < 32768) {
      EXPECT_GT(takes(2 * tokens), passes.device_bytes * 9 / 10) << gigabytes;
    }
  }
  // 13.5 GB of weights and 3.2 MB a token leave room for so many.
  EXPECT_EQ(before, 32768);
  EXPECT_EQ(micro_batch_tokens(config, lora_on_gpu(), {.device_bytes = 16 * kGb, .longest_row = 9}),
            1024)
      << "the smallest, where nothing fits";
}

TEST(MicroBatchTokens, RecomputationMakesRoom) {
  const GpuPasses passes{.device_bytes = 24 * kGb, .longest_row = 512};
  RankShape shape = lora_on_gpu();
  const int64_t kept = micro_batch_tokens(llama_7b(), shape, passes);
  shape.step.recompute = true;
  EXPECT_GE(micro_batch_tokens(llama_7b(), shape, passes), 4 * kept);
}

TEST(MicroBatchTokens, HaveRoomForTheLongestRowAndForASuite) {
  const GpuPasses row{.device_bytes = 24 * kGb, .longest_row = 20000};
  EXPECT_EQ(micro_batch_tokens(llama_7b(), lora_on_gpu(), row), 20000);
  RankShape evaluates = lora_on_gpu();
  evaluates.trains = false;
  GpuPasses passes{.device_bytes = 20 * kGb, .longest_row = 512};
  const int64_t alone = micro_batch_tokens(llama_7b(), evaluates, passes);
  passes.of_suite = 4;
  EXPECT_LT(micro_batch_tokens(llama_7b(), evaluates, passes), alone);
}

}  // namespace
}  // namespace emoe
