// Every back-end of the feed-forward layers, driven directly, against what the method says
// (arXiv 2310.10908, section 3).
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "worker/model/ffn.h"
#include "worker/train/adamw.h"
#include "worker/train/flat_parameters.h"

namespace emoe::worker {
namespace {

constexpr int64_t kTokens = 14;
constexpr int64_t kHidden = 12;
constexpr int64_t kFfn = 40;
constexpr int64_t kExperts = 8;
constexpr int64_t kRank = 3;
constexpr double kScale = 0.5;

at::Tensor leaf(at::IntArrayRef shape) {
  return (at::randn(shape) * 0.4).set_requires_grad(true);
}

// One converted layer's linears: trained whole, or frozen under adapters.
class Layer {
 public:
  explicit Layer(bool full, bool biased = false) {
    at::manual_seed(full ? 3 : 4);
    add("gate", weights.gate, {kFfn, kHidden}, full);
    add("up", weights.up, {kFfn, kHidden}, full);
    add("down", weights.down, {kHidden, kFfn}, full);
    if (!biased) return;
    add_bias("gate.bias", weights.gate, kFfn, full);
    add_bias("up.bias", weights.up, kFfn, full);
    add_bias("down.bias", weights.down, kHidden, full);
  }

  [[nodiscard]] FfnOutput forward(const FfnBackend& ffn, const at::Tensor& x,
                                  const ExpertRouting& routing) const {
    const ExpertGate experts = gate(routing);
    return ffn.forward(x, weights, &experts, {});
  }
  [[nodiscard]] ExpertGate gate(const ExpertRouting& routing) const {
    ExpertGate gate{routing, mean_gate_rows(weights.gate.weight->values(), routing.num_experts)};
    const Weight& bias = weights.gate.bias;
    if (bias.defined()) gate.bias_means = mean_gate_rows(bias.compute, routing.num_experts);
    return gate;
  }

  // W + s B A, with a graph back to what is trained.
  [[nodiscard]] static at::Tensor effective(const Linear& linear) {
    if (linear.master.defined()) return linear.master;
    const at::Tensor base = linear.weight->product(at::eye(linear.lora.a.size(1))).t();
    return base + kScale * at::mm(linear.lora.b, linear.lora.a);
  }
  // The same of a bias; 0 where there is none.
  [[nodiscard]] static at::Tensor bias_of(const Linear& linear, int64_t size) {
    if (!linear.bias.defined()) return at::zeros({size});
    return linear.bias.trainable() ? linear.bias.master : linear.bias.compute;
  }

  FfnWeights weights;
  std::vector<Parameter> parameters;

 private:
  void add_bias(const std::string& name, Linear& linear, int64_t size, bool full) {
    const at::Tensor bias = full ? leaf({size}) : at::randn({size}) * 0.4;
    linear.bias = {bias, full ? bias : at::Tensor()};
    if (full) parameters.push_back({.name = name, .tensor = bias, .weight_decay = false});
  }
  void add(const std::string& name, Linear& linear, at::IntArrayRef shape, bool full) {
    if (full) {
      linear.master = leaf(shape);
      linear.weight = std::make_shared<DenseMatrix>(linear.master);
      parameters.push_back({.name = name, .tensor = linear.master});
      return;
    }
    linear.weight = std::make_shared<DenseMatrix>(at::randn(shape) * 0.4);
    linear.lora = {.a = leaf({kRank, shape[1]}), .b = leaf({shape[0], kRank}), .scale = kScale};
    parameters.push_back({.name = name + ".a", .tensor = linear.lora.a});
    parameters.push_back({.name = name + ".b", .tensor = linear.lora.b});
  }
};

// Trained whole or under adapters, without and with biases.
constexpr std::pair<bool, bool> kKinds[] = {
    {true, false}, {false, false}, {true, true}, {false, true}};

// The mean pre-activation of an expert is x times the mean of its gate rows, with the
// weights of the moment.
class FfnOracles : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<FfnBackend> ffn_ = ffn_backends().at(GetParam())();
};

TEST_P(FfnOracles, ScoresAreXTimesTheMeanGateRowsBeforeAndAfterAnUpdate) {
  for (const auto& [full, biased] : kKinds) {
    Layer layer(full, biased);
    FlatParameters flat(layer.parameters, 0);
    Adamw adamw({.weight_decay = 0.1}, flat);
    const at::Tensor x = at::randn({kTokens, kHidden});
    const auto expected = [&] {
      const at::Tensor rows = Layer::effective(layer.weights.gate).detach().to(at::kDouble);
      const at::Tensor means = rows.unflatten(0, {kExperts, kFfn / kExperts}).mean(1);
      const at::Tensor bias = Layer::bias_of(layer.weights.gate, kFfn).detach().to(at::kDouble);
      return at::mm(x.to(at::kDouble), means.t()) + bias.unflatten(0, {kExperts, -1}).mean(1);
    };
    const at::Tensor before = layer.forward(*ffn_, x, {kExperts, 3}).selection.scores;
    EXPECT_TRUE(at::allclose(before.to(at::kDouble), expected(), 1e-5, 1e-6));
    layer.forward(*ffn_, x, {kExperts, 3}).y.square().sum().backward();
    adamw.update(flat, 0, 0.05, 1.0);
    const at::Tensor after = layer.forward(*ffn_, x, {kExperts, 3}).selection.scores;
    EXPECT_TRUE(at::allclose(after.to(at::kDouble), expected(), 1e-5, 1e-6));
    EXPECT_GT((after - before).abs().max().item<double>(), 0.01) << "the update moved nothing";
  }
}

// A sparse back-end in a few lines: only the chosen blocks exist. chosen [T, k].
at::Tensor gathered_ffn(const at::Tensor& x, const Layer& layer, const at::Tensor& chosen) {
  const auto blocks = [&](const at::Tensor& rows) {  // [d, h] → [T, k, E, h]
    return rows.unflatten(0, {kExperts, kFfn / kExperts})
        .index_select(0, chosen.flatten())
        .unflatten(0, {chosen.size(0), chosen.size(1)});
  };
  const auto neurons = [&](const Linear& linear) {
    const at::Tensor bias = Layer::bias_of(linear, kFfn).unsqueeze(1);
    return at::einsum("tkeh,th->tke", {blocks(Layer::effective(linear)), x}) +
           blocks(bias).squeeze(-1);
  };
  const at::Tensor gate = neurons(layer.weights.gate);
  const at::Tensor up = neurons(layer.weights.up);
  const at::Tensor down = blocks(Layer::effective(layer.weights.down).t());
  return at::einsum("tke,tkeh->th", {at::silu(gate) * up, down}) +
         Layer::bias_of(layer.weights.down, kHidden);
}

std::vector<at::Tensor> gradients(const at::Tensor& y, const at::Tensor& d, const at::Tensor& x,
                                  const Layer& layer) {
  (y * d).sum().backward();
  std::vector<at::Tensor> result = {x.grad().clone()};
  x.mutable_grad() = at::Tensor();
  for (const Parameter& parameter : layer.parameters) {
    result.push_back(parameter.tensor.grad().clone());
    parameter.tensor.mutable_grad() = at::Tensor();
  }
  return result;
}

// Back-end and sparse agree on the same indices, forward and all gradients.
TEST_P(FfnOracles, EqualsASparseGatherOfTheChosenBlocks) {
  for (const auto& [full, biased] : kKinds) {
    for (const Selector selector : {Selector::top, Selector::bottom, Selector::not_top}) {
      const Layer layer(full, biased);
      const at::Tensor x = leaf({kTokens, kHidden});
      const at::Tensor d = at::randn({kTokens, kHidden});
      const FfnOutput output = layer.forward(*ffn_, x, {kExperts, 3, selector});
      const at::Tensor chosen = expert_indices(output.selection.mask);
      ASSERT_EQ(chosen.size(1), selector == Selector::not_top ? kExperts - 3 : 3);
      const at::Tensor sparse = gathered_ffn(x, layer, chosen.to(at::kLong));
      EXPECT_TRUE(at::allclose(output.y, sparse, 1e-5, 1e-5));
      const auto ours = gradients(output.y, d, x, layer);
      const auto theirs = gradients(sparse, d, x, layer);
      for (size_t i = 0; i < ours.size(); ++i) {
        EXPECT_TRUE(at::allclose(ours[i], theirs[i], 1e-4, 1e-5)) << i;
      }
    }
  }
}

TEST_P(FfnOracles, WithoutRoutingItIsTheDenseFunctionAndAllExpertsAreItsBits) {
  for (const auto& [full, biased] : kKinds) {
    const Layer layer(full, biased);
    const at::Tensor x = leaf({kTokens, kHidden});
    const FfnOutput dense = ffn_->forward(x, layer.weights, nullptr, {});
    EXPECT_FALSE(dense.selection.mask.defined());
    const auto linear = [](const at::Tensor& in, const Linear& weights, int64_t size) {
      return at::linear(in, Layer::effective(weights), Layer::bias_of(weights, size));
    };
    const at::Tensor neurons =
        at::silu(linear(x, layer.weights.gate, kFfn)) * linear(x, layer.weights.up, kFfn);
    const at::Tensor plain = linear(neurons, layer.weights.down, kHidden);
    EXPECT_TRUE(at::allclose(dense.y, plain, 1e-5, 1e-5));
    const FfnOutput all = layer.forward(*ffn_, x, {kExperts, kExperts});
    EXPECT_TRUE(at::equal(all.y, dense.y));
    const at::Tensor d = at::randn({kTokens, kHidden});
    const auto of_dense = gradients(dense.y, d, x, layer);
    const auto of_all = gradients(all.y, d, x, layer);
    for (size_t i = 0; i < of_dense.size(); ++i) {
      EXPECT_TRUE(at::equal(of_all[i], of_dense[i])) << i;
    }
  }
}

TEST_P(FfnOracles, ChoosingAloneIsTheChoiceOfThePass) {
  const Layer layer(false);
  const at::Tensor x = at::randn({kTokens, kHidden});
  const ExpertRouting routing{kExperts, 3};
  const Selection alone = choose_experts(x, layer.weights.gate, layer.gate(routing), {});
  const Selection in_pass = layer.forward(*ffn_, x, routing).selection;
  EXPECT_TRUE(at::equal(alone.mask, in_pass.mask));
  EXPECT_TRUE(at::equal(alone.scores, in_pass.scores));
}

INSTANTIATE_TEST_SUITE_P(All, FfnOracles, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const auto& [name, make] : ffn_backends()) names.push_back(name);
                           return names;
                         }()),
                         [](const auto& tested) { return tested.param; });

TEST(WeightMatrix, TheTransposedProductAddsToWhatIsThere) {
  const at::Tensor w = at::randn({5, 3});
  const DenseMatrix matrix(w);
  const at::Tensor dy = at::randn({7, 5});
  at::Tensor sum;
  matrix.add_transposed_product(dy, sum);
  EXPECT_TRUE(at::equal(sum, at::mm(dy, w)));
  matrix.add_transposed_product(dy, sum);
  EXPECT_TRUE(at::allclose(sum, at::mm(dy, w) * 2));
}

}  // namespace
}  // namespace emoe::worker
