#include "worker/eval/generate.h"

#include <cmath>
#include <map>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/model/engine_fixture.h"
#include "worker/errors.h"

namespace emoe::worker {
namespace {

using testing::EngineFixture;

Decoder tiny(const EngineFixture& fixture, std::vector<int64_t> ends = {}) {
  ModelOptions options;
  options.config = EngineFixture::config();
  options.config.eos_token_ids = std::move(ends);
  return {options, fixture.base()};
}

TEST(Generate, GreedyTakesTheArgmaxOfTheFullForward) {
  const EngineFixture fixture;
  Decoder model = tiny(fixture);
  GenerateOptions options;
  options.max_new_tokens = 8;
  std::vector<int64_t> ids = {1, 5, 9};
  const Generated generated = generate(model, ids, options, {});
  ASSERT_EQ(generated.ids.size(), 8U);
  EXPECT_FALSE(generated.finished);
  for (const int64_t token : generated.ids) {
    const at::Tensor logits = model.logits(one_segment(ids), {});
    EXPECT_EQ(token, logits[static_cast<int64_t>(ids.size()) - 1].argmax().item<int64_t>());
    ids.push_back(token);
  }
}

TEST(Generate, StopsAtTheEndOfSequenceWithoutIt) {
  const EngineFixture fixture;
  Decoder model = tiny(fixture);
  const auto tokens = generate(model, {1, 5, 9}, {.max_new_tokens = 8}, {}).ids;
  constexpr int64_t kNever = -1;
  for (const auto& ends : {std::vector<int64_t>{tokens[3]}, {kNever, tokens[3]}}) {
    Decoder stopping = tiny(fixture, ends);
    const Generated generated = generate(stopping, {1, 5, 9}, {.max_new_tokens = 8}, {});
    EXPECT_TRUE(generated.finished);
    const auto first = std::find(tokens.begin(), tokens.end(), tokens[3]);
    EXPECT_EQ(generated.ids, std::vector<int64_t>(tokens.begin(), first));
  }
}

TEST(Generate, StaysWithinTheModelsPositions) {
  const EngineFixture fixture;
  Decoder model = tiny(fixture);
  std::vector<int64_t> prompt(60, 4);
  EXPECT_EQ(generate(model, prompt, {.max_new_tokens = 100}, {}).ids.size(), 4U);
  prompt.resize(65, 4);
  EXPECT_THROW((void)generate(model, prompt, {}, {}), std::invalid_argument);
  EXPECT_THROW((void)generate(model, {}, {}, {}), std::invalid_argument);
  EXPECT_THROW((void)generate(model, {1}, {.temperature = -1.0}, {}), std::invalid_argument);
}

TEST(Generate, SamplingFollowsItsSeed) {
  const EngineFixture fixture;
  Decoder model = tiny(fixture);
  const auto run = [&](int64_t seed) {
    return generate(model, {1, 5}, {.max_new_tokens = 20, .temperature = 1.5, .seed = seed}, {})
        .ids;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(Generate, TokensAreDrawnByTheirProbability) {
  const at::Tensor logits = at::tensor({0.0F, std::log(2.0F), std::log(5.0F)});
  std::map<int64_t, int> counts;
  for (int i = 0; i < 800; ++i) ++counts[sample_token(logits, 1.0, (i + 0.5) / 800)];
  EXPECT_EQ(counts[0], 100);
  EXPECT_EQ(counts[1], 200);
  EXPECT_EQ(counts[2], 500);
  EXPECT_EQ(sample_token(logits, 0.0, 0.0), 2);
  EXPECT_EQ(sample_token(logits, 1.0, 0.9999999999), 2);
}

TEST(Generate, AnyTemperatureAboveZeroIsUsable) {
  const at::Tensor logits = at::tensor({3.0F, 80.0F, -7.0F});
  for (const double temperature : {1e-3, 1e-300, 5e-324}) {
    for (const double uniform : {0.0, 0.5, 0.999}) {
      EXPECT_EQ(sample_token(logits, temperature, uniform), 1) << temperature;
    }
  }
}

TEST(Generate, LogitsThatAreNoNumbersAreAnError) {
  const EngineFixture fixture;
  ModelOptions options;
  options.config = EngineFixture::config();
  Decoder model(options, [&](const std::string& name, const std::vector<int64_t>& shape) {
    const at::Tensor tensor = fixture.base()(name, shape);
    return name == "model.norm.weight" ? tensor.fill_(NAN) : tensor;
  });
  for (const double temperature : {0.0, 1.0}) {
    EXPECT_THROW((void)generate(model, {1, 5}, {.temperature = temperature}, {}), NonFiniteError);
  }
}

}  // namespace
}  // namespace emoe::worker
