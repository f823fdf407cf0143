// Logits, losses and every gradient against stock transformers
// (tests/reference/make_engine_fixture.py).
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/model/engine_fixture.h"
#include "worker/model/ffn.h"

namespace emoe::worker {
namespace {

using testing::EngineFixture;
using testing::max_difference;
using testing::relative_difference;

constexpr double kLogitsTolerance = 1e-5;
constexpr double kLossTolerance = 2e-6;      // relative
constexpr double kGradientTolerance = 2e-5;  // relative to the tensor's largest entry

struct Case {
  std::string name;  // as in the fixture
  bool full = false;
  std::optional<Selector> selector;
  std::string fixture = "engine";
  std::string ffn = "masked";
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name << " " << c.ffn;
}

class LlamaParity : public ::testing::TestWithParam<Case> {
 protected:
  [[nodiscard]] Decoder model() const {
    ModelOptions options;
    options.config = EngineFixture::config(GetParam().fixture);
    options.full = GetParam().full;
    if (!options.full) options.lora = EngineFixture::lora();
    if (GetParam().selector) options.emoe = fixture_.emoe(*GetParam().selector);
    options.ffn = GetParam().ffn;
    Decoder model(options, fixture_.base());
    if (!options.full) fixture_.load_adapter(model);
    return model;
  }
  [[nodiscard]] at::Tensor expected(const std::string& what) const {
    return fixture_.tensor("case/" + GetParam().name + "/" + what);
  }

  EngineFixture fixture_{GetParam().fixture};
};

TEST_P(LlamaParity, Logits) {
  Decoder llama = model();
  const at::Tensor logits = llama.logits(fixture_.padded(), {});
  EXPECT_LT(max_difference(logits, expected("logits").flatten(0, 1)), kLogitsTolerance);
}

TEST_P(LlamaParity, TokenLosses) {
  Decoder llama = model();
  const at::Tensor losses = llama.token_losses(fixture_.padded(), {});
  EXPECT_LT(max_difference(losses, expected("losses").flatten()), 5e-6);
}

TEST_P(LlamaParity, LossAndGradients) {
  for (const PackedBatch& batch : {fixture_.padded(), fixture_.packed()}) {
    Decoder llama = model();
    const at::Tensor loss = llama.loss(batch, {});
    EXPECT_LT(relative_difference(loss, expected("loss")), kLossTolerance);
    loss.backward();
    if (!fixture_.has("case/" + GetParam().name + "/grad/" + llama.parameters()[0].name)) continue;
    for (const auto& parameter : llama.parameters()) {
      ASSERT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
      const at::Tensor gradient = parameter.to_original(parameter.tensor.grad());
      EXPECT_LT(relative_difference(gradient, expected("grad/" + parameter.name)),
                kGradientTolerance)
          << parameter.name;
    }
  }
}

// In bf16 no two orders of sums agree; both are as far from the exact result.
TEST(LlamaParityHalf, LogitsAreAsGoodAsTransformers) {
  const EngineFixture fixture;
  ModelOptions options;
  options.config = EngineFixture::config();
  options.dtype = at::kBFloat16;
  Decoder model(options, fixture.base());
  const at::Tensor exact = fixture.tensor("case/full-dense/logits").flatten(0, 1);
  const at::Tensor theirs = fixture.tensor("case/bfloat16/logits").flatten(0, 1);
  const at::Tensor ours = model.logits(fixture.padded(), {});
  const auto distance = [](const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).norm() / b.norm()).item<double>();
  };
  EXPECT_LT(distance(ours, exact), 1.25 * distance(theirs, exact));
  EXPECT_LT(distance(ours, theirs), 2.0 * distance(theirs, exact));
}

// With experts under every FFN back-end.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [ffn, make] : ffn_backends()) {
    for (const Case& c :
         {Case{"full-dense", true, {}}, Case{"full-top", true, Selector::top},
          Case{"full-bottom", true, Selector::bottom},
          Case{"full-not_top", true, Selector::not_top}, Case{"lora-dense", false, {}},
          Case{"lora-top", false, Selector::top}, Case{"lora-bottom", false, Selector::bottom},
          Case{"lora-not_top", false, Selector::not_top},
          Case{"full-top", true, Selector::top, "uneven"},
          Case{"lora-top", false, Selector::top, "uneven"}}) {
      if (!c.selector && ffn != "masked") continue;
      all.push_back(c);
      all.back().ffn = ffn;
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cases, LlamaParity, ::testing::ValuesIn(cases()),
                         [](const auto& param_info) {
                           const Case& c = param_info.param;
                           std::string name = c.fixture + "_" + c.name + "_" + c.ffn;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace emoe::worker
