// Logits, losses and every gradient against stock transformers
// (tests/reference/make_engine_fixture.py).
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/model/engine_fixture.h"

namespace emoe::worker {
namespace {

using testing::EngineFixture;
using testing::max_difference;
using testing::original_order;
using testing::relative_difference;

constexpr double kLogitsTolerance = 1e-5;
constexpr double kLossTolerance = 2e-6;      // relative
constexpr double kGradientTolerance = 2e-5;  // relative to the tensor's largest entry

struct Case {
  std::string name;  // as in the fixture
  bool full = false;
  std::optional<Selector> selector;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class LlamaParity : public ::testing::TestWithParam<Case> {
 protected:
  [[nodiscard]] Llama model() const {
    Llama::Options options;
    options.config = EngineFixture::config();
    options.full = GetParam().full;
    if (!options.full) options.lora = EngineFixture::lora();
    if (GetParam().selector) options.emoe = fixture_.emoe(*GetParam().selector);
    Llama model(options, fixture_.base());
    if (!options.full) fixture_.load_adapter(model);
    return model;
  }
  [[nodiscard]] at::Tensor expected(const std::string& what) const {
    return fixture_.tensor("case/" + GetParam().name + "/" + what);
  }

  EngineFixture fixture_;
};

TEST_P(LlamaParity, Logits) {
  Llama llama = model();
  const at::Tensor logits = llama.logits(fixture_.padded(), {});
  EXPECT_LT(max_difference(logits, expected("logits").flatten(0, 1)), kLogitsTolerance);
}

TEST_P(LlamaParity, TokenLosses) {
  Llama llama = model();
  const at::Tensor losses = llama.token_losses(fixture_.padded(), {});
  EXPECT_LT(max_difference(losses, expected("losses").flatten()), 5e-6);
}

TEST_P(LlamaParity, LossAndGradients) {
  for (const PackedBatch& batch : {fixture_.padded(), fixture_.packed()}) {
    Llama llama = model();
    const at::Tensor loss = llama.loss(batch, {});
    EXPECT_LT(relative_difference(loss, expected("loss")), kLossTolerance);
    loss.backward();
    if (!fixture_.has("case/" + GetParam().name + "/grad/" + llama.parameters()[0].name)) continue;
    for (const auto& parameter : llama.parameters()) {
      ASSERT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
      const at::Tensor gradient = original_order(llama, parameter, parameter.tensor.grad());
      EXPECT_LT(relative_difference(gradient, expected("grad/" + parameter.name)),
                kGradientTolerance)
          << parameter.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, LlamaParity,
                         ::testing::Values(Case{"full-dense", true, {}},
                                           Case{"full-top", true, Selector::top},
                                           Case{"full-bottom", true, Selector::bottom},
                                           Case{"full-not_top", true, Selector::not_top},
                                           Case{"lora-dense", false, {}},
                                           Case{"lora-top", false, Selector::top},
                                           Case{"lora-bottom", false, Selector::bottom},
                                           Case{"lora-not_top", false, Selector::not_top}),
                         [](const auto& param_info) {
                           std::string name = param_info.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace emoe::worker
