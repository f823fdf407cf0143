// What must hold whatever the weights are (the method: arXiv 2310.10908, section 3).
#include <algorithm>
#include <map>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "format/tensor_table.h"
#include "tests/worker/model/engine_fixture.h"
#include "worker/weights/merge.h"

namespace emoe::worker {
namespace {

using testing::EngineFixture;
using testing::max_difference;
using testing::relative_difference;

// Over every FFN back-end.
class DecoderOracles : public ::testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] Decoder full(const EmoeOptions& emoe, at::ScalarType dtype = at::kFloat) const {
    ModelOptions options;
    options.config = EngineFixture::config();
    options.full = true;
    options.emoe = emoe;
    options.dtype = dtype;
    options.ffn = GetParam();
    return {options, fixture_.base()};
  }
  [[nodiscard]] Decoder adapted(const EmoeOptions& emoe, double dropout = 0.0,
                                at::ScalarType dtype = at::kFloat) const {
    ModelOptions options;
    options.config = EngineFixture::config();
    options.lora = EngineFixture::lora();
    options.lora.dropout = dropout;
    options.emoe = emoe;
    options.dtype = dtype;
    options.ffn = GetParam();
    Decoder model(options, fixture_.base());
    fixture_.load_adapter(model);
    return model;
  }
  static std::map<std::string, at::Tensor> gradients(Decoder& model, const PackedBatch& batch,
                                                     const ForwardOptions& forward) {
    for (auto& parameter : model.parameters()) parameter.tensor.mutable_grad() = at::Tensor();
    model.loss(batch, forward).backward();
    std::map<std::string, at::Tensor> result;
    for (const auto& parameter : model.parameters()) {
      result[parameter.name] = parameter.tensor.grad().clone();
    }
    return result;
  }

  EngineFixture fixture_;
};

TEST_P(DecoderOracles, AllExpertsEqualDenseBitForBit) {
  const EmoeOptions all = fixture_.emoe(Selector::top, 6);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const bool tune_all : {true, false}) {
      Decoder model = tune_all ? full(all, dtype) : adapted(all, 0.0, dtype);
      const PackedBatch batch = fixture_.packed();
      ForwardOptions off;
      off.experts_on = false;
      EXPECT_TRUE(at::equal(model.logits(batch, {}), model.logits(batch, off)));
      const auto with_mask = gradients(model, batch, {});
      const auto dense = gradients(model, batch, off);
      for (const auto& [name, gradient] : dense) {
        EXPECT_TRUE(at::equal(with_mask.at(name), gradient)) << name;
      }
    }
  }
}

TEST_P(DecoderOracles, FewerExpertsAreAnotherFunction) {
  Decoder model = full(fixture_.emoe(Selector::top, 2));
  ForwardOptions off;
  off.experts_on = false;
  EXPECT_GT(
      max_difference(model.logits(fixture_.packed(), {}), model.logits(fixture_.packed(), off)),
      1e-2);
}

// Gate and up by their rows, down by its columns; under adapters those are rows of B and columns
// of A.
TEST_P(DecoderOracles, ExpertsNeverChosenGetNoGradient) {
  for (const bool tune_all : {true, false}) {
    const EmoeOptions one = fixture_.emoe(Selector::top, 1);
    Decoder model = tune_all ? full(one) : adapted(one);
    std::map<int64_t, std::set<int32_t>> used;
    ForwardOptions forward;
    forward.on_choice = [&](const ExpertChoice& choice) {
      const at::Tensor flat = expert_indices(choice.selection.mask).flatten();
      for (int64_t i = 0; i < flat.numel(); ++i) used[choice.layer].insert(flat[i].item<int32_t>());
    };
    const auto gradient = gradients(model, fixture_.batch({1}, std::nullopt), forward);
    int unused = 0;
    int active = 0;
    for (const auto& parameter : model.parameters()) {
      if (parameter.permuted_dim < 0) continue;
      const at::Tensor& whole = gradient.at(parameter.name);
      const int64_t layer = std::stoll(parameter.name.substr(parameter.name.find("layers.") + 7));
      for (int32_t e = 0; e < 6; ++e) {
        const bool silent = !whole.narrow(parameter.permuted_dim, e * 6, 6).any().item<bool>();
        const bool chosen = used[layer].contains(e);
        EXPECT_TRUE(silent || chosen) << parameter.name << " expert " << e;
        unused += chosen ? 0 : 1;
        active += silent ? 0 : 1;
      }
    }
    EXPECT_GT(unused, 0) << "the case shows nothing";
    EXPECT_GT(active, 0) << "the case shows nothing";
  }
}

TEST_P(DecoderOracles, SelectorsComplementEachOther) {
  const auto chosen = [&](Selector selector, int32_t k) {
    Decoder model = full(fixture_.emoe(selector, k));
    std::map<int64_t, at::Tensor> result;
    ForwardOptions forward;
    forward.on_choice = [&](const ExpertChoice& choice) {
      result[choice.layer] = expert_indices(choice.selection.mask);
    };
    (void)model.logits(fixture_.packed(), forward);
    return result.at(0);  // the first converted layer sees the same input whatever is chosen
  };
  const at::Tensor top = chosen(Selector::top, 2);
  const at::Tensor rest = chosen(Selector::not_top, 2);
  EXPECT_EQ(rest.size(1), 4);
  const at::Tensor all = std::get<0>(at::cat({top, rest}, 1).sort(1));
  EXPECT_TRUE(at::equal(all, at::arange(6, at::kInt).expand_as(all)));
  EXPECT_TRUE(at::equal(chosen(Selector::not_top, 3), chosen(Selector::bottom, 3)));
}

// score = x · mean of the expert's gate rows, with the weights of the moment.
TEST_P(DecoderOracles, ScoresFollowCurrentWeights) {
  Decoder model = full(fixture_.emoe(Selector::top, 2));
  const PackedBatch batch = fixture_.packed();
  const auto scores = [&] {
    at::Tensor result;
    ForwardOptions forward;
    forward.on_choice = [&](const ExpertChoice& choice) {
      if (choice.layer == 0) result = choice.selection.scores;
    };
    (void)model.logits(batch, forward);
    return result;
  };
  const auto by_name = [&](const std::string& name) {
    for (const auto& parameter : model.parameters()) {
      if (parameter.name == name) return parameter.tensor;
    }
    throw std::logic_error(name);
  };
  const at::Tensor gate = by_name("model.layers.0.mlp.gate_proj.weight");
  const at::Tensor before = scores();
  const at::Tensor old_mean = gate.detach().clone().unflatten(0, {6, 6}).mean(1);
  // Solve for the inputs from the scores: six equations do not determine x, but a change of the
  // gate alone leaves x as it is, and the scores must move as the means do.
  {
    const at::NoGradGuard no_grad;
    gate.mul_(1.5);
  }
  model.parameters_changed();
  EXPECT_LT(relative_difference(scores(), before * 1.5), 1e-5);
  {
    const at::NoGradGuard no_grad;
    gate.narrow(0, 6, 6).copy_(gate.narrow(0, 0, 6));
  }
  model.parameters_changed();
  const at::Tensor copied = scores();
  EXPECT_TRUE(at::allclose(copied.select(1, 1), copied.select(1, 0), 1e-5, 1e-6));
  EXPECT_FALSE(at::allclose(old_mean[1], old_mean[0]));
}

TEST_P(DecoderOracles, JointPermutationLeavesDenseLogitsUnchanged) {
  const at::Tensor order = NeuronOrder(fixture_.emoe(Selector::top).partitions.at(0)).forward();
  const auto logits = [&](const std::set<std::string>& permuted) {
    ModelOptions options;
    options.config = EngineFixture::config();
    Decoder model(options, [&](const std::string& name, const std::vector<int64_t>&) {
      at::Tensor tensor = fixture_.tensor("base/" + name);
      for (const auto& part : permuted) {
        if (name.find(part) == std::string::npos) continue;
        tensor = tensor.index_select(part == "down_proj" ? 1 : 0, order);
      }
      return tensor;
    });
    return model.logits(fixture_.packed(), {});
  };
  const at::Tensor plain = logits({});
  EXPECT_LT(max_difference(logits({"gate_proj", "up_proj", "down_proj"}), plain), 2e-6);
  EXPECT_GT(max_difference(logits({"gate_proj"}), plain), 1e-3);
}

TEST_P(DecoderOracles, PackedPaddedAndSingleRowsAgree) {
  for (const double dropout : {0.0, 0.3}) {
    Decoder model = adapted(fixture_.emoe(Selector::top), dropout);
    ForwardOptions forward;
    forward.training = true;
    forward.dropout_seed = 17;
    const auto reference = gradients(model, fixture_.padded(), forward);
    const double loss = model.loss(fixture_.padded(), forward).item<double>();
    EXPECT_NEAR(model.loss(fixture_.packed(), forward).item<double>(), loss, 2e-6);
    EXPECT_NEAR(model.loss(fixture_.batch({2, 0, 3, 1}, {}), forward).item<double>(), loss, 2e-6);

    for (auto& parameter : model.parameters()) parameter.tensor.mutable_grad().zero_();
    double sum = 0.0;
    for (const int64_t row : {3, 0, 2, 1}) {
      const at::Tensor part = model.loss(fixture_.batch({row}, {}), forward);
      part.backward();
      sum += part.item<double>();
    }
    EXPECT_NEAR(sum, loss, 2e-6);
    for (const auto& parameter : model.parameters()) {
      EXPECT_LT(relative_difference(parameter.tensor.grad(), reference.at(parameter.name)), 2e-5)
          << parameter.name;
    }
  }
}

TEST_P(DecoderOracles, DropoutActsInTrainingOnlyAndFollowsItsSeed) {
  Decoder model = adapted({}, 0.3);
  ForwardOptions forward;
  const double evaluated = model.loss(fixture_.packed(), forward).item<double>();
  forward.training = true;
  forward.dropout_seed = 1;
  const double first = model.loss(fixture_.packed(), forward).item<double>();
  EXPECT_EQ(first, model.loss(fixture_.packed(), forward).item<double>());
  forward.dropout_seed = 2;
  const double second = model.loss(fixture_.packed(), forward).item<double>();
  EXPECT_NE(first, evaluated);
  EXPECT_NE(first, second);
  EXPECT_EQ(evaluated, adapted({}, 0.0).loss(fixture_.packed(), {}).item<double>());
}

// The last layer computes only targets; whoever watches the experts is told of all tokens, and no
// bit of the result changes.
TEST_P(DecoderOracles, WatchingTheExpertsChangesNoBit) {
  Decoder model = adapted(fixture_.emoe(Selector::top), 0.3);
  const PackedBatch batch = fixture_.packed();
  ForwardOptions alone;
  alone.training = true;
  ForwardOptions watching = alone;
  std::map<int64_t, at::Tensor> masks;
  watching.on_choice = [&](const ExpertChoice& choice) {
    masks[choice.layer] = choice.selection.mask;
  };
  const auto expected = gradients(model, batch, alone);
  const auto watched = gradients(model, batch, watching);
  for (const auto& [name, gradient] : watched) {
    EXPECT_TRUE(at::equal(expected.at(name), gradient)) << name;
  }
  EXPECT_TRUE(at::equal(model.token_losses(batch, alone), model.token_losses(batch, watching)));
  ASSERT_EQ(masks.size(), 2);
  EXPECT_EQ(masks.at(2).size(0), batch.num_tokens());
}

TEST_P(DecoderOracles, TokensThatTheLastLayerLeavesOutChooseAsInAFullPass) {
  Decoder model = adapted(fixture_.emoe(Selector::top));
  const PackedBatch batch = fixture_.packed();
  ASSERT_TRUE(std::count(batch.targets.begin(), batch.targets.end(), -1) > 0);
  std::map<int64_t, Selection> seen;
  ForwardOptions watching;
  watching.on_choice = [&](const ExpertChoice& choice) { seen[choice.layer] = choice.selection; };
  (void)model.loss(batch, watching);
  const Selection trimmed = seen.at(2);
  (void)model.logits(batch, watching);
  EXPECT_TRUE(at::equal(trimmed.mask, seen.at(2).mask));
  EXPECT_LT(relative_difference(trimmed.scores, seen.at(2).scores), 1e-5);
}

TEST_P(DecoderOracles, BatchWithoutTargetsHasZeroLossAndGradient) {
  Decoder model = adapted({});
  PackedBatch batch = fixture_.packed();
  std::fill(batch.targets.begin(), batch.targets.end(), -1);
  std::fill(batch.weights.begin(), batch.weights.end(), 0.0F);
  const at::Tensor loss = model.loss(batch, {});
  EXPECT_EQ(loss.item<float>(), 0.0F);
  loss.backward();
  for (const auto& parameter : model.parameters()) {
    if (parameter.tensor.grad().defined()) {
      EXPECT_FALSE(parameter.tensor.grad().any().item<bool>()) << parameter.name;
    }
  }
}

TEST_P(DecoderOracles, FrozenWeightsGetNoGradientAndNothingIsTrainableWithoutATask) {
  ModelOptions options;
  options.config = EngineFixture::config();
  Decoder model(options, fixture_.base());
  EXPECT_TRUE(model.parameters().empty());
  EXPECT_FALSE(model.loss(fixture_.packed(), {}).requires_grad());
}

// The trainer keeps all parameters and gradients in two flat buffers.
TEST_P(DecoderOracles, GradientsAccumulateIntoViewsOfAFlatBuffer) {
  for (const bool tune_all : {false, true}) {
    Decoder model = tune_all ? full(fixture_.emoe(Selector::top)) : adapted({});
    const auto expected = gradients(model, fixture_.packed(), {});
    int64_t total = 0;
    for (const auto& parameter : model.parameters()) total += parameter.tensor.numel();
    const at::Tensor values = at::zeros({total});
    const at::Tensor flat = at::zeros({total});
    int64_t offset = 0;
    for (auto& parameter : model.parameters()) {
      const int64_t count = parameter.tensor.numel();
      const at::Tensor view = values.narrow(0, offset, count).view(parameter.tensor.sizes());
      view.copy_(parameter.tensor.detach());
      parameter.tensor.set_data(view);
      parameter.tensor.mutable_grad() =
          flat.narrow(0, offset, count).view(parameter.tensor.sizes());
      offset += count;
    }
    model.loss(fixture_.packed(), {}).backward();
    model.loss(fixture_.packed(), {}).backward();
    offset = 0;
    for (const auto& parameter : model.parameters()) {
      const int64_t count = parameter.tensor.numel();
      const at::Tensor twice = flat.narrow(0, offset, count).view(parameter.tensor.sizes());
      EXPECT_LT(relative_difference(twice, expected.at(parameter.name) * 2), 1e-6);
      offset += count;
    }
    // A change of the flat buffer is a change of the model.
    const double before = model.loss(fixture_.packed(), {}).item<double>();
    values.mul_(1.1);
    model.parameters_changed();
    EXPECT_NE(model.loss(fixture_.packed(), {}).item<double>(), before);
  }
}

TEST_P(DecoderOracles, CacheGivesTheLogitsOfTheFullForward) {
  Decoder model = adapted(fixture_.emoe(Selector::top));
  const PackedBatch batch = fixture_.batch({0}, std::nullopt);
  const at::Tensor whole = model.logits(batch, {});
  KvCache one_by_one;
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    const at::Tensor logits =
        model.next_token_logits({batch.ids[static_cast<size_t>(t)]}, one_by_one, {});
    EXPECT_LT(max_difference(logits, whole[t]), 5e-6) << t;
  }
  EXPECT_EQ(one_by_one.length, batch.num_tokens());
  KvCache prompt;
  const std::vector<int64_t> first(batch.ids.begin(), batch.ids.begin() + 6);
  EXPECT_LT(max_difference(model.next_token_logits(first, prompt, {}), whole[5]), 5e-6);
  const std::vector<int64_t> second(batch.ids.begin() + 6, batch.ids.end());
  EXPECT_LT(
      max_difference(model.next_token_logits(second, prompt, {}), whole[batch.num_tokens() - 1]),
      5e-6);
}

TEST_P(DecoderOracles, HalfPrecisionIsClose) {
  const PackedBatch batch = fixture_.packed();
  Decoder exact = adapted({});
  Decoder rounded = adapted({}, 0.0, at::kBFloat16);
  const at::Tensor expected = exact.logits(batch, {});
  const at::Tensor logits = rounded.logits(batch, {});
  EXPECT_EQ(logits.scalar_type(), at::kFloat);
  EXPECT_LT(((logits - expected).norm() / expected.norm()).item<double>(), 0.02);
  const auto a = gradients(exact, batch, {});
  const auto b = gradients(rounded, batch, {});
  for (const auto& [name, gradient] : a) {
    EXPECT_EQ(b.at(name).scalar_type(), at::kFloat);
    EXPECT_LT(((b.at(name) - gradient).norm() / gradient.norm()).item<double>(), 0.06) << name;
  }
}

TEST_P(DecoderOracles, HalfPrecisionFullTuningRefreshesItsCopies) {
  Decoder model = full({}, at::kBFloat16);
  const PackedBatch batch = fixture_.packed();
  const double before = model.loss(batch, {}).item<double>();
  for (auto& parameter : model.parameters()) {
    EXPECT_EQ(parameter.tensor.scalar_type(), at::kFloat);
    if (parameter.name.find("q_proj") != std::string::npos) {
      const at::NoGradGuard no_grad;
      parameter.tensor.mul_(2.0);
    }
  }
  EXPECT_EQ(model.loss(batch, {}).item<double>(), before);
  model.parameters_changed();
  EXPECT_NE(model.loss(batch, {}).item<double>(), before);
}

// Merging in the original order, then loading the result as a plain model, is the mask-off forward.
TEST_P(DecoderOracles, MergedWeightsAreTheMaskOffForward) {
  for (const bool tune_all : {false, true}) {
    Decoder trained =
        tune_all ? full(fixture_.emoe(Selector::top)) : adapted(fixture_.emoe(Selector::top));
    if (tune_all) {
      const at::NoGradGuard no_grad;
      for (auto& parameter : trained.parameters()) parameter.tensor.mul_(1.05);
    }
    ModelOptions plain;
    plain.config = EngineFixture::config();
    const Merge merge(trained);
    int changed = 0;
    Decoder merged(plain, [&](const std::string& name, const std::vector<int64_t>&) {
      const at::Tensor base = fixture_.tensor("base/" + name);
      changed += merge.is_trained(name) ? 1 : 0;
      return merge.is_trained(name) ? merge.merged(name, base) : base;
    });
    EXPECT_EQ(changed, tune_all ? 3 * 9 + 2 : 3 * 7);
    ForwardOptions off;
    off.experts_on = false;
    EXPECT_LT(max_difference(merged.logits(fixture_.packed(), {}),
                             trained.logits(fixture_.packed(), off)),
              1e-5);
  }
}

TEST_P(DecoderOracles, UntrainedMergeIsTheBaseBitForBit) {
  Decoder model = full(fixture_.emoe(Selector::top));
  for (const auto& [name, shape, role, layer] : TensorTable(EngineFixture::config())) {
    const at::Tensor base = fixture_.tensor("base/" + name);
    EXPECT_TRUE(at::equal(Merge(model).merged(name, base), base)) << name;
  }
}

TEST_P(DecoderOracles, AdapterStartsAsNothingAndDoesNotDependOnThePartition) {
  ModelOptions options;
  options.config = EngineFixture::config();
  options.lora = EngineFixture::lora();
  options.lora.seed = 5;
  Decoder plain(options, fixture_.base());
  options.emoe = fixture_.emoe(Selector::top);
  Decoder converted(options, fixture_.base());
  for (size_t i = 0; i < plain.parameters().size(); ++i) {
    const auto& a = plain.parameters()[i];
    const auto& b = converted.parameters()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_TRUE(at::equal(a.tensor.detach(), b.to_original(b.tensor.detach())));
    EXPECT_EQ(a.tensor.detach().any().item<bool>(), a.name.find("lora_A") != std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(All, DecoderOracles, ::testing::Values("masked", "sparse"),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace emoe::worker
