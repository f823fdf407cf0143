// Weights that are packed for the products in both directions against plain ones.
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/counter_random.h"
#include "tests/format/tiny_config.h"
#include "tests/worker/model/engine_fixture.h"
#include "worker/model/decoder.h"
#include "worker/model/onednn.h"

namespace emoe::worker {
namespace {

using testing::relative_difference;

TEST(PackedMatrix, EqualsSumsInDouble) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    if (!has_onednn(dtype)) continue;
    const double tolerance = dtype == at::kFloat ? 1e-5 : 6e-3;
    for (const auto& [tokens, in, out] : {std::array<int64_t, 3>{1, 1, 1},
                                          {1, 7, 5},
                                          {2, 130, 1},
                                          {13, 33, 65},
                                          {100, 257, 191},
                                          {512, 768, 769}}) {
      const at::Tensor x = at::randn({tokens, in}).to(dtype);
      const at::Tensor dy = at::randn({tokens, out}).to(dtype);
      const at::Tensor w = at::randn({out, in}).to(dtype);
      const PackedMatrix packed(w);
      EXPECT_FALSE(packed.values().defined());
      const at::Tensor y = packed.product(x);
      EXPECT_EQ(y.scalar_type(), dtype);
      const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
      EXPECT_LT(relative_difference(y, at::mm(wide(x), wide(w).t())), tolerance);
      const at::Tensor back = at::mm(wide(dy), wide(w));
      at::Tensor sum;
      packed.add_transposed_product(dy, sum);
      EXPECT_LT(relative_difference(sum, back), tolerance) << tokens << " " << in << " " << out;
      packed.add_transposed_product(dy, sum);
      EXPECT_EQ(sum.scalar_type(), dtype);
      EXPECT_LT(relative_difference(sum, back * 2), 2 * tolerance);
    }
  }
}

TEST(PackedMatrix, KeepsItsNumbersWhenTheirSourceChanges) {
  if (!has_onednn(at::kFloat)) GTEST_SKIP() << "no oneDNN";
  at::Tensor w = at::randn({24, 40});
  const at::Tensor x = at::randn({9, 40});
  const at::Tensor expected = at::mm(x, w.t());
  const PackedMatrix packed(w);
  w.zero_();
  EXPECT_LT(relative_difference(packed.product(x), expected), 1e-5);
}

struct Tested {
  at::ScalarType dtype = at::kFloat;
  bool full = false;
  bool tied = false;
  std::string ffn = "masked";
  int64_t layers = 3;
};

ModelOptions options_of(const Tested& tested) {
  ModelOptions options;
  options.config = emoe::testing::tiny_config({.hidden = 20, .d_ff = 24, .layers = tested.layers});
  options.config.head_dim = 6;
  options.config.qkv_bias = options.config.mlp_bias = true;
  options.config.tie_word_embeddings = tested.tied;
  options.dtype = tested.dtype;
  options.full = tested.full;
  options.ffn = tested.ffn;
  options.emoe.routing = {.num_experts = 4, .top_k = 2};
  Partition partition;
  partition.num_experts = 4;
  for (int32_t i = 0; i < 24; ++i) partition.labels.push_back((i * 7 + 1) % 4);
  options.emoe.partitions[1] = partition;
  if (!tested.full) options.lora = {.rank = 2, .alpha = 4, .targets = {"q_proj", "up_proj"}};
  return options;
}

// Numbers that hang on a tensor's name alone.
at::Tensor named_weights(const std::string& name, const std::vector<int64_t>& shape) {
  at::manual_seed(name_key(name));
  return at::randn(shape) * 0.3;
}

struct StepResult {
  double loss = 0.0;
  std::vector<at::Tensor> gradients;
  at::Tensor logits;
  at::Tensor choice;
};

StepResult step_of(const Tested& tested, bool packed) {
  const ModelOptions options = options_of(tested);
  Decoder model(options, named_weights);
  at::manual_seed(5);
  for (Parameter& parameter : model.parameters()) {
    const at::NoGradGuard no_grad;
    if (parameter.name.ends_with("lora_B.weight")) parameter.tensor.normal_(0.0, 0.1);
  }
  model.parameters_changed();
  if (packed) model.pack_weights();
  const std::vector<int64_t> ids = {1, 9, 33, 60, 2, 17, 5, 40, 41, 12, 3};
  PackedBatch batch = one_segment(ids);
  for (size_t t = 0; t + 1 < ids.size(); ++t) batch.targets[t] = ids[t + 1];
  std::fill(batch.weights.begin(), batch.weights.end() - 1, 0.1F);
  StepResult result;
  ForwardOptions forward;
  forward.training = true;
  forward.on_choice = [&](const ExpertChoice& made) { result.choice = made.selection.mask; };
  model.forward(batch, forward);
  model.backward();
  result.loss = model.take_loss();
  for (const Parameter& parameter : model.parameters()) {
    result.gradients.push_back(parameter.tensor.grad().clone());
  }
  result.logits = model.logits(batch, {});
  return result;
}

void expect_equal(const Tested& tested, double tolerance) {
  const StepResult plain = step_of(tested, false);
  const StepResult packed = step_of(tested, true);
  EXPECT_NEAR(packed.loss, plain.loss, tolerance * plain.loss);
  EXPECT_TRUE(at::equal(packed.choice, plain.choice));
  EXPECT_LT(relative_difference(packed.logits, plain.logits), tolerance);
  ASSERT_EQ(packed.gradients.size(), plain.gradients.size());
  for (size_t i = 0; i < plain.gradients.size(); ++i) {
    EXPECT_LT(relative_difference(packed.gradients[i], plain.gradients[i]), tolerance) << i;
  }
}

TEST(PackedWeights, GiveTheLossGradientsAndChoicesOfPlainOnes) {
  expect_equal({}, 1e-5);
  expect_equal({.tied = true}, 1e-5);
  expect_equal({.ffn = "sparse"}, 1e-5);
  if (has_onednn(at::kBFloat16)) expect_equal({.dtype = at::kBFloat16}, 3e-2);
}

// A run that is resumed packs anew.
TEST(PackedWeights, GiveTheSameBitsWhenTheyArePackedAgain) {
  const StepResult first = step_of({}, true);
  const StepResult second = step_of({}, true);
  EXPECT_EQ(first.loss, second.loss);
  EXPECT_TRUE(at::equal(first.logits, second.logits));
  for (size_t i = 0; i < first.gradients.size(); ++i) {
    EXPECT_TRUE(at::equal(first.gradients[i], second.gradients[i])) << i;
  }
}

TEST(PackedWeights, TrainedOnesAreNot) {
  expect_equal({.full = true}, 1e-9);  // as it was, but for what the norm itself rounds
}

// Large enough that there is a choice.
TEST(PackedWeights, AreMeasuredOnce) {
  ModelOptions options = options_of({.layers = 1});
  options.emoe = {};
  Decoder small(options, named_weights);
  EXPECT_FALSE(small.time_packing(8).has_value());
  options.config.hidden_size = 512;
  options.config.intermediate_size = 2048;
  Decoder model(options, named_weights);
  if (!has_onednn(at::kFloat)) GTEST_SKIP() << "no oneDNN";
  const auto times = model.time_packing(8);
  ASSERT_TRUE(times.has_value());
  EXPECT_GT(times->plain, 0.0);
  EXPECT_GT(times->packed, 0.0);
  EXPECT_GT(times->packing, 0.0);
  model.pack_weights();
  EXPECT_FALSE(model.time_packing(8).has_value());
  model.pack_weights();  // a second time there is nothing to do
}

}  // namespace
}  // namespace emoe::worker
