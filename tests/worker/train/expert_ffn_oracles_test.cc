// The masked back-end of a converted layer, driven directly, against what the method says
// (../shared/design/emoe.md, oracles 3 and 5).
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "worker/emoe/expert_ffn.h"
#include "worker/model/linear.h"
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
  explicit Layer(bool full) {
    at::manual_seed(full ? 3 : 4);
    add("gate", gate, {kFfn, kHidden}, full);
    add("up", up, {kFfn, kHidden}, full);
    add("down", down, {kHidden, kFfn}, full);
  }

  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const ExpertRouting& routing,
                                   const SelectionObserver& observer) const {
    FfnLinears linears;
    linears.gate_up = [&](const at::Tensor& input) {
      const auto outputs = apply_linears(input, {&gate, &up}, {});
      return std::pair(outputs[0], outputs[1]);
    };
    linears.down = [&](const at::Tensor& input) { return apply_linear(input, down, {}); };
    return MaskedExpertFfn().forward(x, linears, routing, observer);
  }

  // W + s B A, with a graph back to what is trained.
  [[nodiscard]] static at::Tensor effective(const Linear& linear) {
    if (linear.weight.trainable()) return linear.weight.master;
    return linear.weight.compute + kScale * at::mm(linear.lora.b, linear.lora.a);
  }

  Linear gate, up, down;
  std::vector<Parameter> parameters;

 private:
  void add(const std::string& name, Linear& linear, at::IntArrayRef shape, bool full) {
    if (full) {
      linear.weight.master = leaf(shape);
      linear.weight.compute = linear.weight.master;
      parameters.push_back({.name = name, .tensor = linear.weight.master});
      return;
    }
    linear.weight.compute = at::randn(shape) * 0.4;
    linear.lora = {.a = leaf({kRank, shape[1]}), .b = leaf({shape[0], kRank}), .scale = kScale};
    parameters.push_back({.name = name + ".a", .tensor = linear.lora.a});
    parameters.push_back({.name = name + ".b", .tensor = linear.lora.b});
  }
};

at::Tensor scores_of(const Layer& layer, const at::Tensor& x) {
  at::Tensor scores;
  (void)layer.forward(x, {kExperts, 3},
                      [&](const Selection& /*selection*/, const at::Tensor& s) { scores = s; });
  return scores;
}

// Oracle 5: the mean pre-activation of an expert is x times the mean of its gate rows, with the
// weights of the moment.
TEST(ExpertFfnOracles, ScoresAreXTimesTheMeanGateRowsBeforeAndAfterAnUpdate) {
  for (const bool full : {true, false}) {
    Layer layer(full);
    FlatParameters flat(layer.parameters, 0);
    Adamw adamw({.weight_decay = 0.1}, flat);
    const at::Tensor x = at::randn({kTokens, kHidden});
    const auto expected = [&] {
      const at::Tensor rows = Layer::effective(layer.gate).detach().to(at::kDouble);
      const at::Tensor means = rows.unflatten(0, {kExperts, kFfn / kExperts}).mean(1);
      return at::mm(x.to(at::kDouble), means.t());
    };
    const at::Tensor before = scores_of(layer, x);
    EXPECT_TRUE(at::allclose(before.to(at::kDouble), expected(), 1e-5, 1e-6));
    layer.forward(x, {kExperts, 3}, {}).square().sum().backward();
    adamw.update(flat, 0, 0.05, 1.0);
    const at::Tensor after = scores_of(layer, x);
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
  const at::Tensor gate = at::einsum("tkeh,th->tke", {blocks(Layer::effective(layer.gate)), x});
  const at::Tensor up = at::einsum("tkeh,th->tke", {blocks(Layer::effective(layer.up)), x});
  const at::Tensor down = blocks(Layer::effective(layer.down).t());
  return at::einsum("tke,tkeh->th", {at::silu(gate) * up, down});
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

// Oracle 3: masked and sparse agree on the same indices, forward and all gradients.
TEST(ExpertFfnOracles, EqualsASparseGatherOfTheChosenBlocks) {
  for (const bool full : {true, false}) {
    for (const Selector selector : {Selector::top, Selector::bottom, Selector::not_top}) {
      const Layer layer(full);
      const at::Tensor x = leaf({kTokens, kHidden});
      const at::Tensor d = at::randn({kTokens, kHidden});
      at::Tensor chosen;
      const at::Tensor masked =
          layer.forward(x, {kExperts, 3, selector},
                        [&](const Selection& s, const at::Tensor&) { chosen = s.chosen; });
      ASSERT_EQ(chosen.size(1), selector == Selector::not_top ? kExperts - 3 : 3);
      const at::Tensor sparse = gathered_ffn(x, layer, chosen.to(at::kLong));
      EXPECT_TRUE(at::allclose(masked, sparse, 1e-5, 1e-5));
      const auto ours = gradients(masked, d, x, layer);
      const auto theirs = gradients(sparse, d, x, layer);
      for (size_t i = 0; i < ours.size(); ++i) {
        EXPECT_TRUE(at::allclose(ours[i], theirs[i], 1e-4, 1e-5)) << i;
      }
    }
  }
}

}  // namespace
}  // namespace emoe::worker
