// Each custom autograd function against the plain expression and against finite differences.
#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "tests/worker/model/engine_fixture.h"
#include "worker/model/cross_entropy.h"
#include "worker/model/linear.h"
#include "worker/model/low_rank.h"
#include "worker/model/products.h"
#include "worker/model/rms_norm.h"
#include "worker/model/rotary.h"

namespace emoe::worker {
namespace {

at::Tensor leaf(at::IntArrayRef shape) {
  return at::randn(shape).set_requires_grad(true);
}

// The gradients of sum(y * d) of some leaves, which are left without gradients.
std::vector<at::Tensor> gradients(const at::Tensor& y, const at::Tensor& d,
                                  const std::vector<at::Tensor>& leaves) {
  (y * d).sum().backward();
  std::vector<at::Tensor> result;
  for (const auto& tensor : leaves) {
    result.push_back(tensor.grad().clone());
    tensor.mutable_grad() = at::Tensor();
  }
  return result;
}

void expect_close(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b,
                  double tolerance = 1e-5) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    const double scale = b[i].abs().max().item<double>();
    EXPECT_LT((a[i] - b[i]).abs().max().item<double>(), tolerance * scale + 1e-7) << "tensor " << i;
  }
}

// d f / d direction by central differences, against the gradient's.
void expect_directional(const std::function<at::Tensor()>& f, const at::Tensor& tensor) {
  tensor.mutable_grad() = at::Tensor();
  f().backward();
  const at::Tensor gradient = tensor.grad().clone();
  tensor.mutable_grad() = at::Tensor();
  const at::NoGradGuard no_grad;
  const at::Tensor direction = gradient / gradient.norm();
  constexpr double kStep = 1e-2;
  tensor.add_(direction, kStep);
  const double above = f().item<double>();
  tensor.sub_(direction, 2 * kStep);
  const double below = f().item<double>();
  tensor.add_(direction, kStep);
  const double expected = gradient.norm().item<double>();
  EXPECT_NEAR((above - below) / (2 * kStep), expected, 5e-3 * expected + 1e-3);
}

TEST(RmsNorm, EqualsThePlainExpression) {
  const at::Tensor x = leaf({6, 37});
  const at::Tensor w = leaf({37});
  const at::Tensor d = at::randn({6, 37});
  const at::Tensor plain = w * (x * (x.square().mean(-1, true) + 1e-5).rsqrt());
  const auto expected = gradients(plain, d, {x, w});
  const Weight weight{w, w};
  const at::Tensor y = rms_norm(x, weight, 1e-5);
  EXPECT_TRUE(at::allclose(y, plain, 1e-5, 1e-6));
  expect_close(gradients(y, d, {x, w}), expected);
  expect_directional([&] { return (rms_norm(x, weight, 1e-5) * d).sum(); }, x);
  expect_directional([&] { return (rms_norm(x, weight, 1e-5) * d).sum(); }, w);
}

TEST(RmsNorm, HalfPrecisionFollowsTheOrderOfTransformers) {
  const at::Tensor x = at::randn({6, 40}).to(at::kBFloat16);
  const at::Tensor w = at::randn({40}).to(at::kBFloat16);
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor unit = wide * (wide.square().mean(-1, true) + 1e-5).rsqrt();
  const at::Tensor expected = w * unit.to(at::kBFloat16);
  EXPECT_TRUE(at::equal(rms_norm(x, {w, {}}, 1e-5), expected));
}

at::Tensor rotate_half(const at::Tensor& x) {
  const int64_t half = x.size(-1) / 2;
  return at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
}

// What a GPU computes with: the branches by tensor operations, which the CPU takes for other types
// than fp32 and bf16, against the kernels.
TEST(RmsNorm, TensorOperationsEqualTheKernels) {
  const at::Tensor x = leaf({6, 37});
  const at::Tensor w = leaf({37});
  const at::Tensor d = at::randn({6, 37});
  const at::Tensor kernel = rms_norm(x, {w, w}, 1e-5);
  const auto expected = gradients(kernel, d, {x, w});
  const at::Tensor wide = x.detach().to(at::kDouble).set_requires_grad(true);
  const at::Tensor y = rms_norm(wide, {w.detach().to(at::kDouble), w}, 1e-5);
  EXPECT_TRUE(at::allclose(y.to(at::kFloat), kernel, 1e-6, 1e-6));
  expect_close(gradients(y, d.to(at::kDouble), {wide, w}), expected);
}

TEST(Rotary, EqualsRotateHalf) {
  const at::Tensor x = leaf({5, 3, 12});
  const at::Tensor d = at::randn({5, 3, 12});
  const RotaryTable table =
      rotary_table(at::tensor({0, 1, 2, 0, 700}, at::kLong), rotary_frequencies(12, {}));
  const at::Tensor c = at::cat({table.cosine, table.cosine}, 1).unsqueeze(1);
  const at::Tensor s = at::cat({table.sine, table.sine}, 1).unsqueeze(1);
  const at::Tensor plain = x * c + rotate_half(x) * s;
  const auto expected = gradients(plain, d, {x});
  const at::Tensor y = apply_rotary(x, table);
  EXPECT_TRUE(at::allclose(y, plain, 1e-6, 1e-6));
  expect_close(gradients(y, d, {x}), expected);
  EXPECT_TRUE(at::equal(y[0], x.detach()[0])) << "position 0 does not turn";
}

TEST(Rotary, TensorOperationsEqualTheKernels) {
  const at::Tensor x = leaf({5, 3, 12});
  const at::Tensor d = at::randn({5, 3, 12});
  const RotaryTable table =
      rotary_table(at::tensor({0, 1, 2, 0, 700}, at::kLong), rotary_frequencies(12, {}));
  const at::Tensor kernel = apply_rotary(x, table);
  const auto expected = gradients(kernel, d, {x});
  const at::Tensor wide = x.detach().to(at::kDouble).set_requires_grad(true);
  const at::Tensor y = apply_rotary(wide, table);
  EXPECT_TRUE(at::allclose(y.to(at::kFloat), kernel, 1e-6, 1e-6));
  expect_close(gradients(y, d.to(at::kDouble), {wide}), expected);
}

// Against numbers computed in double by the formulas of transformers' modeling_rope_utils.py, with
// theta 500000, heads of 8 and Llama 3.1's keys at 64 original positions.
TEST(Rotary, FrequenciesAreScaled) {
  Rope rope{.theta = 500000.0, .scaling = {}};
  const auto expect = [&](std::vector<double> values) {
    const at::Tensor expected = at::tensor(values, at::kDouble);
    const at::Tensor got = rotary_frequencies(8, rope).to(at::kDouble);
    EXPECT_LT(((got - expected) / expected).abs().max().item<double>(), 5e-7) << got;
  };
  expect({1.0, 0.03760603093086393, 0.0014142135623730952, 5.318295896944988e-05});
  rope.scaling = {.type = RopeScaling::Type::linear, .factor = 4.0};
  expect({0.25, 0.009401507732715983, 0.0003535533905932738, 1.329573974236247e-05});
  rope.scaling = {.type = RopeScaling::Type::llama3,
                  .factor = 8.0,
                  .low_freq_factor = 0.25,
                  .high_freq_factor = 4.0,
                  .original_positions = 64};
  expect({1.0, 0.0058682496423774575, 0.0001767766952966369, 6.647869871181235e-06});
}

// As a layer norms and turns its queries and keys, against the same in double.
TEST(Rotary, HeadsThatAreNormedAndTurnedHaveTheGradientsOfThePlainExpression) {
  const at::Tensor x = leaf({5, 3, 12});
  const at::Tensor w = leaf({12});
  const at::Tensor d = at::randn({5, 3, 12});
  const RotaryTable table = rotary_table(at::arange(5, at::kLong), rotary_frequencies(12, {}));
  const auto wide = [](const at::Tensor& t) {
    return t.detach().to(at::kDouble).set_requires_grad(true);
  };
  const at::Tensor wide_x = wide(x);
  const at::Tensor wide_w = wide(w);
  const at::Tensor c = at::cat({table.cosine, table.cosine}, 1).unsqueeze(1).to(at::kDouble);
  const at::Tensor s = at::cat({table.sine, table.sine}, 1).unsqueeze(1).to(at::kDouble);
  const at::Tensor normed = wide_x * (wide_x.square().mean(-1, true) + 1e-6).rsqrt() * wide_w;
  const at::Tensor plain = normed * c + rotate_half(normed) * s;
  const auto expected = gradients(plain, d.to(at::kDouble), {wide_x, wide_w});
  const at::Tensor heads = rms_norm(x.flatten(0, 1), {w, w}, 1e-6).view(x.sizes());
  const at::Tensor y = apply_rotary(heads, table);
  EXPECT_LT((y - plain).abs().max().item<double>(), 1e-5);
  expect_close(gradients(y, d, {x, w}), expected);
}

struct LinearCase {
  at::Tensor x = leaf({9, 20});
  at::Tensor frozen = at::randn({14, 20});
  at::Tensor full = leaf({6, 20});
  at::Tensor a = leaf({4, 20});
  at::Tensor b = leaf({14, 4});
  at::Tensor d = at::randn({9, 20});
  Linear adapted{std::make_shared<DenseMatrix>(frozen), {}, {a, b, 0.5, 3}};
  Linear trained{std::make_shared<DenseMatrix>(full), full, {}};

  [[nodiscard]] at::Tensor output(const LoraDropout& dropout) const {
    return at::cat(apply_linears(x, {&adapted, &trained}, dropout), 1);
  }
};

TEST(Linears, ABiasIsAddedAndTrainedWhereItsWeightIs) {
  LinearCase c;
  const at::Tensor fixed = at::randn({14});
  const at::Tensor bias = leaf({6});
  c.adapted.bias = {fixed, {}};
  c.trained.bias = {bias, bias};
  const std::vector<at::Tensor> leaves = {c.x, c.a, c.b, c.full, bias};
  std::vector<at::Tensor> wide;  // the same in double
  for (const at::Tensor& tensor : leaves) {
    wide.push_back(tensor.detach().to(at::kDouble).set_requires_grad(true));
  }
  const at::Tensor frozen = at::linear(wide[0], c.frozen.to(at::kDouble), fixed.to(at::kDouble)) +
                            at::linear(at::linear(wide[0], wide[1]), wide[2]) * 0.5;
  const at::Tensor plain = at::cat({frozen, at::linear(wide[0], wide[3], wide[4])}, 1);
  const auto expected = gradients(plain, c.d.to(at::kDouble), wide);
  const at::Tensor y = c.output({});
  EXPECT_LT((y - plain).abs().max().item<double>(), 1e-5);
  expect_close(gradients(y, c.d, leaves), expected);
  expect_directional([&] { return (c.output({}) * c.d).sum(); }, bias);
}

TEST(Linears, EqualThePlainExpression) {
  const LinearCase c;
  const at::Tensor plain =
      at::cat({at::linear(c.x, c.frozen) + at::linear(at::linear(c.x, c.a), c.b) * 0.5,
               at::linear(c.x, c.full)},
              1);
  const auto expected = gradients(plain, c.d, {c.x, c.a, c.b, c.full});
  const at::Tensor y = c.output({});
  EXPECT_TRUE(at::allclose(y, plain, 1e-5, 1e-5));
  expect_close(gradients(y, c.d, {c.x, c.a, c.b, c.full}), expected);
}

TEST(Linears, WithDropoutEqualThePlainExpressionWithItsMask) {
  const LinearCase c;
  const LoraDropout dropout{0.4, at::arange(9, at::kLong)};
  const at::Tensor mask = apply_lora_dropout(at::ones({9, 20}), dropout, 3);
  const at::Tensor plain =
      at::cat({at::linear(c.x, c.frozen) + at::linear(at::linear(c.x * mask, c.a), c.b) * 0.5,
               at::linear(c.x, c.full)},
              1);
  const auto expected = gradients(plain, c.d, {c.x, c.a, c.b, c.full});
  const at::Tensor y = c.output(dropout);
  EXPECT_TRUE(at::allclose(y, plain, 1e-5, 1e-5));
  expect_close(gradients(y, c.d, {c.x, c.a, c.b, c.full}), expected);
  expect_directional([&] { return (c.output(dropout) * c.d).sum(); }, c.a);
  expect_directional([&] { return (c.output(dropout) * c.d).sum(); }, c.x);
}

TEST(Linears, AnInputWithoutGradientGetsNone) {
  const LinearCase c;
  const at::Tensor y = apply_linears(c.x.detach(), {&c.adapted}, {}).front();
  y.sum().backward();
  EXPECT_FALSE(c.x.grad().defined());
  EXPECT_TRUE(c.a.grad().defined());
}

TEST(CrossEntropy, EqualsThePlainExpressionOverSeveralChunks) {
  const int64_t vocab = 100000;  // so large that 100 rows take more than one chunk
  // 16 wide: with 8, MKL's product on some processors sums all of the vocabulary in one chain (6e-5);
  // with 16 it is up to 1.2e-5 off, by where its operands lie.
  const at::Tensor x = (at::randn({100, 16})).set_requires_grad(true);
  const at::Tensor w = (at::randn({vocab, 16})).set_requires_grad(true);
  const at::Tensor targets = at::randint(0, vocab, {100});
  const at::Tensor weights = at::rand({100}) / 100;
  const at::Tensor log_p = at::log_softmax(at::linear(x.to(at::kDouble), w.to(at::kDouble)), -1);
  const at::Tensor each = -log_p.gather(1, targets.unsqueeze(1)).squeeze(1);
  const at::Tensor plain = (each * weights).sum();
  const auto expected = gradients(plain, at::tensor(1.5), {x, w});
  const Weight head{w, w};
  const at::Tensor loss = linear_cross_entropy(x, head, targets, weights);
  EXPECT_NEAR(loss.item<double>() / plain.item<double>(), 1.0, 1e-6);
  expect_close(gradients(loss, at::tensor(1.5), {x, w}), expected, 5e-5);
  EXPECT_TRUE(
      at::allclose(linear_cross_entropies(x, head, targets).to(at::kDouble), each, 1e-5, 1e-5));
}

TEST(CrossEntropy, TensorOperationsEqualTheKernels) {
  const at::Tensor x = leaf({20, 8});
  const at::Tensor w = leaf({50, 8});
  const at::Tensor targets = at::randint(0, 50, {20});
  const at::Tensor weights = at::rand({20}) / 20;
  const at::Tensor kernel = linear_cross_entropy(x, {w, w}, targets, weights);
  const auto expected = gradients(kernel, at::tensor(1.5), {x, w});
  const at::Tensor wide = x.detach().to(at::kDouble).set_requires_grad(true);
  const Weight head{w.detach().to(at::kDouble), w};
  const at::Tensor loss = linear_cross_entropy(wide, head, targets, weights);
  EXPECT_NEAR(loss.item<double>(), kernel.item<double>(), 1e-6 * kernel.item<double>());
  expect_close(gradients(loss, at::tensor(1.5), {wide, w}), expected);
  EXPECT_TRUE(at::allclose(linear_cross_entropies(wide, head, targets),
                           linear_cross_entropies(x, {w, w}, targets), 1e-6, 1e-6));
}

TEST(LoraDropout, ZeroesTheWantedShareAndKeepsTheMean) {
  const LoraDropout dropout{0.1, at::arange(400, at::kLong)};
  const at::Tensor y = apply_lora_dropout(at::ones({400, 501}), dropout, 1);
  const double dropped = (y == 0).to(at::kDouble).mean().item<double>();
  EXPECT_NEAR(dropped, 0.1, 0.003);
  EXPECT_NEAR(y.mean().item<double>(), 1.0, 0.004);
  EXPECT_TRUE(at::allclose(y.masked_select(y != 0), at::tensor(1.0F / 0.9F)));
  EXPECT_FALSE(at::equal(y, apply_lora_dropout(at::ones({400, 501}), dropout, 2)));
  // Rows are independent of their neighbours, columns of each other.
  EXPECT_FALSE(at::equal(y[0], y[1]));
  const at::Tensor some = dropout.select(at::tensor({7, 3}, at::kLong)).token_keys;
  EXPECT_TRUE(at::equal(some, at::tensor({7, 3}, at::kLong)));
}

TEST(Lora, FirstMatrixIsUniformInKaimingsBoundAndNamed) {
  const at::Tensor a = initial_lora_a(8, 1024, 1, "a");
  const double bound = 1.0 / 32.0;
  EXPECT_LE(a.abs().max().item<double>(), bound);
  EXPECT_NEAR(a.mean().item<double>(), 0.0, 0.02 * bound);
  EXPECT_NEAR(a.std().item<double>(), bound / std::sqrt(3.0), 0.02 * bound);
  EXPECT_TRUE(at::equal(a, initial_lora_a(8, 1024, 1, "a")));
  EXPECT_FALSE(at::equal(a, initial_lora_a(8, 1024, 2, "a")));
  EXPECT_FALSE(at::equal(a, initial_lora_a(8, 1024, 1, "b")));
  EXPECT_EQ(lora_name("model.layers.3.self_attn.q_proj.weight", 'A'),
            "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight");
}

using testing::relative_difference;

// At sizes that fill no vector and no group of ranks; in double they are LibTorch's.
TEST(LowRank, ProductsEqualThoseInDouble) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const auto& [tokens, size, rank] :
         {std::array<int64_t, 3>{1, 7, 1}, {13, 33, 8}, {300, 200, 19}}) {
      const at::Tensor x = at::randn({tokens, size}).to(dtype);
      const at::Tensor lines = at::randn({rank, size});
      const at::Tensor low = at::randn({tokens, rank});
      const at::Tensor wide = x.to(at::kDouble);
      const auto distance = [](const at::Tensor& got, const at::Tensor& expected) {
        const double scale = std::max(expected.abs().max().item<double>(), 1.0);
        return testing::max_difference(got, expected) / scale;
      };
      EXPECT_LT(distance(low_product(x, lines), at::mm(wide, lines.t().to(at::kDouble))), 3e-6);
      EXPECT_LT(distance(low_gradient(low, x), at::mm(low.t().to(at::kDouble), wide)), 3e-6);
      at::Tensor sum = x.clone();
      add_low_product(sum, low, lines);
      const at::Tensor expected = wide + at::mm(low.to(at::kDouble), lines.to(at::kDouble));
      EXPECT_LT(distance(sum, expected), dtype == at::kBFloat16 ? 4e-3 : 3e-6);
    }
  }
}

// Both below and above the size from which another library may compute them.
TEST(Products, EqualSumsInDouble) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const double tolerance = dtype == at::kFloat ? 1e-5 : 6e-3;
    for (const auto& [tokens, in, out] :
         {std::array<int64_t, 3>{1, 7, 5}, {13, 33, 65}, {512, 768, 769}}) {
      const at::Tensor x = at::randn({tokens, in}).to(dtype);
      const at::Tensor dy = at::randn({tokens, out}).to(dtype);
      const at::Tensor w = at::randn({out, in}).to(dtype);
      const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
      EXPECT_LT(relative_difference(product(x, w), at::mm(wide(x), wide(w).t())), tolerance);
      const at::Tensor back = at::mm(wide(dy), wide(w));
      EXPECT_LT(relative_difference(transposed_product(dy, w), back), tolerance);
      at::Tensor sum;
      add_transposed_product(dy, w, sum);
      EXPECT_EQ(sum.scalar_type(), dtype);
      add_transposed_product(dy, w, sum);
      EXPECT_LT(relative_difference(sum, back * 2), 2 * tolerance);
      const at::Tensor gradient = weight_gradient(dy, x);
      EXPECT_EQ(gradient.scalar_type(), at::kFloat);
      EXPECT_LT(relative_difference(gradient, at::mm(wide(dy).t(), wide(x))), tolerance);
    }
  }
}

}  // namespace
}  // namespace emoe::worker
