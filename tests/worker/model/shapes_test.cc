// A decoder with every part that not all architectures have, held to what must be so whatever its parts.
// The numbers themselves: tests/reference/shapes.py.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/counter_random.h"
#include "tests/format/tiny_config.h"
#include "worker/model/decoder.h"

namespace emoe::worker {
namespace {

DecoderConfig config_with_everything() {
  DecoderConfig config = emoe::testing::tiny_config({.hidden = 20, .d_ff = 24, .layers = 3});
  config.head_dim = 6;
  config.qkv_bias = config.output_bias = config.mlp_bias = config.qk_norm = true;
  config.windows = {3, 0, 5};
  config.rope.scaling = {.type = RopeScaling::Type::llama3,
                         .factor = 4.0,
                         .low_freq_factor = 1.0,
                         .high_freq_factor = 4.0,
                         .original_positions = 16};
  return config;
}

// Numbers that hang on a tensor's name alone.
at::Tensor weights(const std::string& name, const std::vector<int64_t>& shape) {
  at::manual_seed(name_key(name));
  return at::randn(shape) * 0.4;
}

ModelOptions options_with_experts(bool full) {
  ModelOptions options;
  options.config = config_with_everything();
  options.full = full;
  options.emoe.routing = {.num_experts = 4, .top_k = 2};
  for (const int64_t layer : {0, 2}) {
    Partition partition;
    partition.num_experts = 4;
    for (int32_t i = 0; i < 24; ++i) partition.labels.push_back((i * 7 + 1) % 4);
    options.emoe.partitions[layer] = partition;
  }
  return options;
}

const std::vector<int64_t> kIds = {1, 9, 33, 60, 2, 17, 5, 40, 41, 12, 3, 8};

TEST(Shapes, ACacheGivesTheLogitsOfTheFullForward) {
  Decoder model(options_with_experts(false), weights);
  const at::Tensor whole = model.logits(one_segment(kIds), {});
  KvCache cache;
  (void)model.next_token_logits({kIds.begin(), kIds.begin() + 4}, cache, {});
  for (size_t t = 4; t < kIds.size(); ++t) {
    const at::Tensor next = model.next_token_logits({kIds[t]}, cache, {});
    EXPECT_LT((next - whole[static_cast<int64_t>(t)]).abs().max().item<double>(), 2e-5) << t;
  }
}

TEST(Shapes, ABatchGoesOnFromACache) {
  Decoder model(options_with_experts(false), weights);
  const at::Tensor whole = model.logits(one_segment(kIds), {});
  KvCache cache;
  (void)model.next_token_logits({kIds.begin(), kIds.begin() + 4}, cache, {});
  PackedBatch rest = one_segment({kIds.begin() + 4, kIds.end()});
  for (int64_t& position : rest.positions) position += 4;
  const at::Tensor logits = model.logits(rest, {.before = &cache});
  EXPECT_LT((logits - whole.slice(0, 4)).abs().max().item<double>(), 2e-5);
  EXPECT_EQ(cache.length, 4);
  EXPECT_THROW(model.forward(rest, {.before = &cache}), std::invalid_argument);
}

TEST(Shapes, WithoutTheMaskAPartitionChangesNothing) {
  ModelOptions options = options_with_experts(false);
  Decoder experts(options, weights);
  options.emoe = {};
  Decoder dense(options, weights);
  const at::Tensor off = experts.logits(one_segment(kIds), {.experts_on = false});
  const at::Tensor expected = dense.logits(one_segment(kIds), {});
  EXPECT_LT((off - expected).abs().max().item<double>(), 2e-5);
  EXPECT_GT((experts.logits(one_segment(kIds), {}) - expected).abs().max().item<double>(), 1e-2);
}

// The directional derivative of the loss along each tensor's gradient, by central differences.
TEST(Shapes, EveryTensorHasItsGradient) {
  ModelOptions options = options_with_experts(true);
  options.emoe = {};  // whose choice is a step
  Decoder model(options, weights);
  PackedBatch batch = one_segment(kIds);
  for (size_t t = 0; t + 1 < kIds.size(); ++t) batch.targets[t] = kIds[t + 1];
  std::fill(batch.weights.begin(), batch.weights.end() - 1, 0.1F);
  model.loss(batch, {}).backward();
  const at::NoGradGuard no_grad;
  for (const Parameter& parameter : model.parameters()) {
    const at::Tensor gradient = parameter.tensor.grad().clone();
    const double norm = gradient.norm().item<double>();
    ASSERT_GT(norm, 1e-6) << parameter.name;
    const at::Tensor direction = gradient / norm;
    constexpr double kStep = 4e-3;
    at::Tensor values = parameter.tensor;
    const auto loss_at = [&](double step) {
      values.add_(direction, step);
      model.parameters_changed();
      const double loss = model.loss(batch, {}).item<double>();
      values.sub_(direction, step);
      return loss;
    };
    const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
    EXPECT_NEAR(slope, norm, 0.02 * norm + 1e-4) << parameter.name;  // losses have 7 digits
  }
}

}  // namespace
}  // namespace emoe::worker
