#include <cmath>
#include <span>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "worker/train/adamw.h"
#include "worker/train/flat_parameters.h"

namespace emoe::worker {
namespace {

at::Tensor random_tensor(at::IntArrayRef shape, int64_t seed) {
  auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  return at::randn(shape, generator, at::kFloat);
}

std::vector<Parameter> some_parameters() {
  std::vector<Parameter> parameters;
  parameters.push_back({"matrix", random_tensor({37, 53}, 1).set_requires_grad(true), true});
  parameters.push_back({"norm", random_tensor({29}, 2).set_requires_grad(true), false});
  parameters.push_back({"large", random_tensor({400, 401}, 3).set_requires_grad(true), true});
  return parameters;
}

TEST(FlatParameters, KeepsValuesAndCatchesGradients) {
  auto parameters = some_parameters();
  const at::Tensor before = parameters[2].tensor.detach().clone();
  const at::Tensor alias = parameters[2].tensor;  // as the model holds it
  FlatParameters flat(parameters, 5);
  EXPECT_TRUE(alias.detach().equal(before));
  EXPECT_EQ(flat.tail().numel(), 5);
  for (int pass = 1; pass <= 2; ++pass) {
    at::Tensor loss = (parameters[0].tensor * 3).sum() + (alias * alias).sum();
    loss.backward();
    flat.check_gradients_in_place();
    EXPECT_TRUE(flat.view(flat.gradients(), 0).equal(at::full({37, 53}, 3.0F * pass)));
    EXPECT_TRUE(at::allclose(flat.view(flat.gradients(), 2), before * 2 * pass));
    EXPECT_TRUE(flat.view(flat.gradients(), 1).equal(at::zeros({29})));
  }
  flat.weights().fill_(0.5F);
  EXPECT_TRUE(alias.detach().equal(at::full({400, 401}, 0.5F)));
  flat.zero_gradients();
  EXPECT_EQ(norm_of(flat.gradients()), 0.0);
}

TEST(FlatParameters, NormAndTheFirstBadTensor) {
  auto parameters = some_parameters();
  FlatParameters flat(parameters, 0);
  const double expected = flat.weights().to(at::kDouble).norm().item<double>();
  EXPECT_NEAR(norm_of(flat.weights()), expected, 1e-12 * expected);
  EXPECT_FALSE(flat.first_non_finite(flat.weights()).has_value());
  flat.view(flat.weights(), 2)[399][400] = INFINITY;
  EXPECT_EQ(flat.first_non_finite(flat.weights()), 2);
  flat.view(flat.weights(), 1)[3] = NAN;
  EXPECT_EQ(flat.first_non_finite(flat.weights()), 1);
  EXPECT_FALSE(std::isfinite(norm_of(flat.weights())));
}

// What a GPU computes with; more floats than one block of it.
TEST(FlatParameters, NormByTensorOperationsEqualsTheKernels) {
  const at::Tensor flat = random_tensor({5'000'001}, 7);
  EXPECT_NEAR(norm_by_tensors(flat), norm_of(flat), 1e-12 * norm_of(flat));
  flat[5'000'000] = NAN;
  EXPECT_FALSE(std::isfinite(norm_by_tensors(flat)));
}

// Against LibTorch's own fused AdamW kernel, over several steps.
TEST(Adamw, EqualsTorch) {
  for (const double beta1 : {0.9, 0.3}) {
    const AdamwOptions options{.beta1 = beta1, .beta2 = 0.98, .epsilon = 1e-6, .weight_decay = 0.1};
    auto parameters = some_parameters();
    FlatParameters flat(parameters, 0);
    Adamw adamw(options, flat);
    std::vector<at::Tensor> w, m, v;
    for (const Parameter& parameter : parameters) {
      w.push_back(parameter.tensor.detach().clone());
      m.push_back(at::zeros_like(w.back()));
      v.push_back(at::zeros_like(w.back()));
    }
    for (int64_t step = 0; step < 10; ++step) {
      const double rate = 1e-2 / static_cast<double>(step + 1);
      const double factor = step % 2 == 0 ? 1.0 : 0.37;
      for (size_t i = 0; i < w.size(); ++i) {
        const at::Tensor gradient =
            random_tensor(w[i].sizes(), 100 + step * 10 + static_cast<int64_t>(i));
        flat.view(flat.gradients(), i).copy_(gradient);
        std::vector<at::Tensor> steps = {at::full({}, static_cast<float>(step + 1))};
        at::_fused_adamw_({w[i]}, {gradient * factor}, {m[i]}, {v[i]}, {}, steps, rate,
                          options.beta1, options.beta2,
                          parameters[i].weight_decay ? options.weight_decay : 0.0, options.epsilon,
                          /*amsgrad=*/false, /*maximize=*/false);
      }
      adamw.update(flat, step, rate, factor);
    }
    for (size_t i = 0; i < w.size(); ++i) {
      const auto close = [](const at::Tensor& a, const at::Tensor& b) {
        return at::allclose(a, b, /*rtol=*/2e-6, /*atol=*/1e-7);
      };
      EXPECT_TRUE(close(flat.view(flat.weights(), i), w[i])) << parameters[i].name;
      EXPECT_TRUE(close(flat.view(adamw.first_moments(), i), m[i]));
      EXPECT_TRUE(close(flat.view(adamw.second_moments(), i), v[i]));
    }
  }
}

// What a GPU computes with.
TEST(Adamw, TensorOperationsEqualTheKernel) {
  AdamwConstants constants{.gradient_scale = 0.7F, .weight_factor = 0.99F, .step_size = 0.02F};
  const at::Tensor w = random_tensor({1003}, 1);
  const at::Tensor m = random_tensor({1003}, 2) * 0.1;
  const at::Tensor v = random_tensor({1003}, 3).square();
  const at::Tensor g = random_tensor({1003}, 4);
  const at::Tensor w2 = w.clone();
  const at::Tensor m2 = m.clone();
  const at::Tensor v2 = v.clone();
  const auto span = [](const at::Tensor& t) {
    return std::span<float>(t.data_ptr<float>(), static_cast<size_t>(t.numel()));
  };
  for (const float correction : {0.05F, 0.9F}) {
    constants.sqrt_correction2 = correction;
    adamw_update(span(w), span(m), span(v), span(g), constants);
    adamw_update_by_tensors(w2, m2, v2, g, constants);
  }
  EXPECT_TRUE(at::allclose(w, w2, 2e-6, 1e-7));
  EXPECT_TRUE(at::allclose(m, m2, 2e-6, 1e-7));
  EXPECT_TRUE(at::allclose(v, v2, 2e-6, 1e-7));
}

TEST(Adamw, ClipsLikeTorch) {
  auto parameters = some_parameters();
  FlatParameters flat(parameters, 0);
  const Adamw adamw({.max_grad_norm = 2.0}, flat);
  EXPECT_EQ(adamw.clip_factor(1.0), 1.0);
  EXPECT_DOUBLE_EQ(adamw.clip_factor(8.0), 2.0 / (8.0 + 1e-6));
  EXPECT_EQ(Adamw({.max_grad_norm = 0.0}, flat).clip_factor(1e9), 1.0);
}

}  // namespace
}  // namespace emoe::worker
