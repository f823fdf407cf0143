// The kernels of devices against the CPU's: as host code always, on a GPU where there is one. What is computed element
// by element must have the same bits; sums are added in another order.
#include "worker/model/device_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/model/host_kernels.h"
#include "worker/device/cuda/cuda_device.h"
#include "worker/emoe/selector.h"
#include "worker/model/cross_entropy.h"
#include "worker/model/lora.h"
#include "worker/model/rms_norm.h"
#include "worker/model/rotary.h"
#include "worker/model/swiglu.h"
#include "worker/train/adamw_kernel.h"

namespace emoe::worker {
namespace {

struct Target {
  at::Device device;
  const DeviceKernels* kernels;
};

// Of a size, whether packs of 16 bytes fit it or not.
const std::vector<int64_t> kSizes = {1, 7, 36, 256, 4096, 5000};

class DeviceKernelsTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  DeviceKernelsTest() {
    at::manual_seed(5);
    targets_.push_back({at::kCPU, &testing::host_kernels()});
    if (cuda::device_count() > 0) {
      cuda::load();
      const at::Device gpu(at::kCUDA, 0);
      targets_.push_back({gpu, kernels_for(at::empty({1}, at::TensorOptions(gpu)))});
    }
  }

  template <typename Call>
  void run(const Target& target, const char* (*kernel)(const Launch&, const Call&),
           const Call& call) {
    const char* error = kernel(launch_on(target.device), call);
    ASSERT_EQ(error, nullptr) << error;
  }

  at::Tensor random(at::IntArrayRef shape) { return (at::randn(shape) * 2).to(GetParam()); }

  std::vector<Target> targets_;
};

INSTANTIATE_TEST_SUITE_P(Types, DeviceKernelsTest, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& type) { return toString(type.param); });

void expect_bits(const at::Tensor& mine, const at::Tensor& wanted, const at::Device& device) {
  EXPECT_TRUE(mine.cpu().view(at::kByte).equal(wanted.contiguous().view(at::kByte)))
      << device << ", off by " << (mine.cpu().to(at::kFloat) - wanted.to(at::kFloat)).abs().max();
}

// Within so many of the type's own roundings.
void expect_close(const at::Tensor& mine, const at::Tensor& wanted, const at::Device& device) {
  const double unit = wanted.scalar_type() == at::kBFloat16 ? 1.0 / 128 : 1e-5;
  const at::Tensor a = mine.cpu().to(at::kDouble);
  const at::Tensor b = wanted.to(at::kDouble);
  EXPECT_LE(((a - b).abs() / (b.abs() + 0.1)).max().item<double>(), unit) << device;
}

TEST_P(DeviceKernelsTest, RmsNormAddsTheResidualAndHasItsGradient) {
  for (const int64_t size : kSizes) {
    const at::Tensor x = random({5, size});
    const at::Tensor residual = random({5, size});
    const at::Tensor w = random({size});
    const at::Tensor dy = random({5, size});
    const at::Tensor d_sum = random({5, size});
    const at::Tensor sum = x + residual;
    const at::Tensor y = rms_norm(sum, {.compute = w, .master = {}}, 1e-5);
    // In fp32, because the kernel rounds the sum of both gradients once.
    const at::Tensor wide = sum.to(at::kFloat, false, /*copy=*/true).requires_grad_();
    rms_norm(wide, {.compute = w.to(at::kFloat), .master = {}}, 1e-5).backward(dy.to(at::kFloat));
    const at::Tensor d_wanted = wide.grad() + d_sum.to(at::kFloat);
    for (const Target& target : targets_) {
      const auto there = [&](const at::Tensor& tensor) { return tensor.to(target.device); };
      const at::Tensor my_sum = at::empty_like(there(x));
      const at::Tensor my_y = at::empty_like(my_sum);
      const at::Tensor inverse = at::empty({5}, my_sum.options().dtype(at::kFloat));
      const at::Tensor a = there(x), b = there(residual), c = there(w), d = there(dy),
                       e = there(d_sum);
      run(target, target.kernels->rms_norm,
          NormCall{element_of(a), a.const_data_ptr(), b.const_data_ptr(), c.const_data_ptr(),
                   my_sum.mutable_data_ptr(), my_y.mutable_data_ptr(),
                   inverse.mutable_data_ptr<float>(), 5, size, 1e-5F});
      expect_bits(my_sum, sum, target.device);
      expect_close(my_y, y, target.device);
      const at::Tensor dx = at::empty_like(my_sum);
      run(target, target.kernels->rms_norm_backward,
          NormBackwardCall{element_of(a), my_sum.const_data_ptr(), c.const_data_ptr(),
                           d.const_data_ptr(), inverse.const_data_ptr<float>(), e.const_data_ptr(),
                           dx.mutable_data_ptr(), 5, size});
      expect_close(dx, d_wanted.to(GetParam()), target.device);
    }
  }
}

TEST_P(DeviceKernelsTest, RotaryHasTheCpusBits) {
  for (const int64_t half : {1, 6, 32, 64}) {
    const at::Tensor x = random({7, 3, 2 * half});
    const RotaryTable table = rotary_table(at::arange(7) * 37, at::rand({half}));
    const at::Tensor wanted = apply_rotary(x, table);
    for (const Target& target : targets_) {
      const at::Tensor in = x.to(target.device);
      const at::Tensor cosine = table.cosine.to(target.device);
      const at::Tensor sine = table.sine.to(target.device);
      const at::Tensor y = at::empty_like(in);
      run(target, target.kernels->rotary,
          RotaryCall{element_of(in), in.const_data_ptr(), y.mutable_data_ptr(),
                     cosine.const_data_ptr<float>(), sine.const_data_ptr<float>(), 7, 3, half,
                     1.0F});
      expect_bits(y, wanted, target.device);
    }
  }
}

TEST_P(DeviceKernelsTest, SwigluAndItsGradientHaveTheCpusBits) {
  for (const int64_t size : {1, 6, 8, 172}) {  // of an expert
    for (const bool masked : {false, true}) {
      constexpr int64_t kExperts = 4;
      const at::Tensor gate = random({9, kExperts * size});
      gate[0][0] = std::numeric_limits<float>::quiet_NaN();
      gate[1].fill_(-200.0);
      const at::Tensor up = random(gate.sizes());
      const at::Tensor dy = random(gate.sizes());
      const at::Tensor mask = masked ? at::rand({9, kExperts}).gt(0.5) : at::Tensor();
      const at::Tensor wanted = swiglu(gate, up, mask);
      const auto [d_gate, d_up] = swiglu_backward(gate, up, mask, dy);
      for (const Target& target : targets_) {
        const at::Tensor g = gate.to(target.device), u = up.to(target.device);
        const at::Tensor d = dy.to(target.device);
        const at::Tensor on = masked ? mask.to(target.device) : mask;
        const bool* bits = masked ? on.const_data_ptr<bool>() : nullptr;
        const int64_t experts = masked ? kExperts : 1;
        const at::Tensor y = at::empty_like(g), dg = at::empty_like(g), du = at::empty_like(g);
        run(target, target.kernels->swiglu,
            SwigluCall{element_of(g), g.const_data_ptr(), u.const_data_ptr(), bits,
                       y.mutable_data_ptr(), 9, kExperts * size, experts});
        run(target, target.kernels->swiglu_backward,
            SwigluBackwardCall{element_of(g), g.const_data_ptr(), u.const_data_ptr(), bits,
                               d.const_data_ptr(), dg.mutable_data_ptr(), du.mutable_data_ptr(), 9,
                               kExperts * size, experts});
        for (const auto& [mine, cpus] : {std::pair{y, wanted}, {dg, d_gate}, {du, d_up}}) {
          EXPECT_TRUE(at::equal(mine.cpu().isnan(), cpus.isnan())) << target.device;
          expect_bits(mine.nan_to_num(), cpus.nan_to_num(), target.device);
        }
      }
    }
  }
}

TEST_P(DeviceKernelsTest, DropoutDrawsWhatTheCpuDraws) {
  // All of a token's features, or from one on.
  for (const auto& [features, first] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 0}, {5, 0}, {64, 0}, {257, 0}, {1, 1}, {5, 3}, {64, 128}, {7, 6}}) {
    const at::Tensor x = random({11, features});
    const LoraDropout dropout{0.3, at::arange(11) * 977};
    const at::Tensor wanted = apply_lora_dropout(x.to(at::kFloat), dropout, 42, first);
    const at::Tensor before = random(x.sizes());
    at::Tensor added = before.clone();
    add_lora_dropout(x.to(at::kFloat), Lora{.stream = 42, .first_feature = first}, dropout, added);
    for (const Target& target : targets_) {
      const at::Tensor in = x.to(target.device);
      const at::Tensor wide = in.to(at::kFloat);
      const at::Tensor keys = dropout.token_keys.to(target.device);
      const at::Tensor y = at::empty(in.sizes(), wide.options());
      const DropRule rule{static_cast<uint64_t>(std::llround(0.3 * 0x1.0p32)),
                          static_cast<float>(1.0 / 0.7)};
      DropoutCall call{element_of(in),
                       false,
                       in.const_data_ptr(),
                       y.mutable_data_ptr(),
                       keys.const_data_ptr<int64_t>(),
                       42,
                       rule,
                       11,
                       features,
                       first};
      run(target, target.kernels->dropout, call);
      expect_bits(y, wanted, target.device);
      const at::Tensor sum = before.to(target.device, GetParam(), false, /*copy=*/true);
      call.add = true;
      call.x = wide.const_data_ptr();
      call.y = sum.mutable_data_ptr();
      run(target, target.kernels->dropout, call);
      expect_close(sum, added, target.device);  // bf16: rounded once, not twice
      if (GetParam() == at::kFloat) expect_bits(sum, added, target.device);
    }
  }
}

TEST_P(DeviceKernelsTest, LossesAndTheirGradient) {
  for (const int64_t size : {2, 48, 1000, 32000}) {
    const at::Tensor logits = random({6, size}) * 3;
    const at::Tensor targets = at::randint(size, {6}, at::kLong);
    const at::Tensor weights = at::rand({6});
    const at::Tensor plain = logits.to(at::kDouble).requires_grad_();
    const at::Tensor losses = -plain.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1);
    (losses * weights).sum().backward();
    for (const Target& target : targets_) {
      const at::Tensor at_targets = targets.to(target.device);
      const at::Tensor at_weights = weights.to(target.device);
      for (const bool weighted : {false, true}) {
        const at::Tensor mine = logits.to(target.device, GetParam(), false, /*copy=*/true);
        const at::Tensor my_losses = at::empty({6}, at_weights.options());
        run(target, target.kernels->losses,
            LossCall{element_of(mine), mine.mutable_data_ptr(),
                     at_targets.const_data_ptr<int64_t>(),
                     weighted ? at_weights.const_data_ptr<float>() : nullptr,
                     my_losses.mutable_data_ptr<float>(), 6, size});
        EXPECT_LE((my_losses.cpu() - losses.detach()).abs().max().item<double>(), 2e-5);
        if (weighted) {
          expect_close(mine, plain.grad().to(GetParam()), target.device);
        } else {
          expect_bits(mine, logits, target.device);
        }
      }
    }
  }
}

TEST_P(DeviceKernelsTest, ANonFiniteLogitGivesANonFiniteLoss) {
  for (const Target& target : targets_) {
    for (const float bad : {NAN, INFINITY}) {
      at::Tensor logits = random({1, 600});
      logits[0][333] = bad;
      logits = logits.to(target.device);
      const at::Tensor targets = at::zeros({1}, at::TensorOptions(target.device).dtype(at::kLong));
      const at::Tensor losses = at::zeros({1}, at::TensorOptions(target.device));
      run(target, target.kernels->losses,
          LossCall{element_of(logits), logits.mutable_data_ptr(), targets.const_data_ptr<int64_t>(),
                   nullptr, losses.mutable_data_ptr<float>(), 1, 600});
      EXPECT_FALSE(std::isfinite(losses.item<float>())) << target.device << ' ' << bad;
    }
  }
}

TEST_P(DeviceKernelsTest, ChoosesTheCpusExperts) {
  if (GetParam() != at::kFloat) GTEST_SKIP() << "scores are fp32";
  at::Tensor scores = at::randn({50, 64});
  scores = at::where(at::rand(scores.sizes()).gt(0.7), (scores * 2).round(), scores);  // ties
  scores[3][5] = std::numeric_limits<float>::quiet_NaN();
  scores[4][5] = -0.0F;
  scores[4][2] = 0.0F;
  for (const Selector selector : {Selector::top, Selector::bottom, Selector::not_top}) {
    for (const int64_t k : {1, 16, 64}) {
      const ExpertRouting routing{
          .num_experts = 64, .top_k = static_cast<int32_t>(k), .selector = selector};
      const at::Tensor wanted = expert_mask(scores, routing);
      for (const Target& target : targets_) {
        const at::Tensor in = scores.to(target.device);
        const at::Tensor mask = at::empty(in.sizes(), in.options().dtype(at::kBool));
        run(target, target.kernels->choice,
            ChoiceCall{in.const_data_ptr<float>(), mask.mutable_data_ptr<bool>(), 50, 64, k,
                       selector != Selector::bottom, selector != Selector::not_top});
        EXPECT_TRUE(mask.cpu().equal(wanted)) << target.device << " top " << k;
      }
    }
  }
}

TEST_P(DeviceKernelsTest, AdamwHasTheCpusBits) {
  if (GetParam() != at::kFloat) GTEST_SKIP() << "parameters are fp32";
  for (const int64_t size : {3, 16, 1000}) {
    for (const float one_minus_beta1 : {0.1F, 0.7F}) {
      const std::vector<at::Tensor> start = {at::randn({size}), at::randn({size}), at::rand({size}),
                                             at::randn({size})};
      const AdamwConstants constants{.gradient_scale = 0.7F,
                                     .weight_factor = 0.999F,
                                     .one_minus_beta1 = one_minus_beta1,
                                     .step_size = 1e-2F,
                                     .sqrt_correction2 = 0.3F};
      std::vector<at::Tensor> cpu;
      for (const at::Tensor& tensor : start) cpu.push_back(tensor.clone());
      const auto span = [size](const at::Tensor& tensor) {
        return std::span<float>(tensor.data_ptr<float>(), size);
      };
      adamw_update(span(cpu[0]), span(cpu[1]), span(cpu[2]), span(cpu[3]), constants);
      for (const Target& target : targets_) {
        std::vector<at::Tensor> mine;
        for (const at::Tensor& tensor : start) {
          mine.push_back(tensor.to(target.device, at::kFloat, false, /*copy=*/true));
        }
        run(target, target.kernels->adamw,
            AdamwCall{mine[0].mutable_data_ptr<float>(), mine[1].mutable_data_ptr<float>(),
                      mine[2].mutable_data_ptr<float>(), mine[3].const_data_ptr<float>(), size,
                      constants});
        for (int i = 0; i < 3; ++i) expect_bits(mine[i], cpu[i], target.device);
      }
    }
  }
}

TEST_P(DeviceKernelsTest, SumsSquares) {
  if (GetParam() != at::kFloat) GTEST_SKIP() << "gradients are fp32";
  for (const int64_t size : {1L, 1000L, kSquaresBlock + 1, 5 * kSquaresBlock}) {
    const at::Tensor values = at::randn({size});
    const double wanted = values.to(at::kDouble).square().sum().item<double>();
    for (const Target& target : targets_) {
      const at::Tensor in = values.to(target.device);
      const at::Tensor sums =
          at::empty({1 + squares_blocks(size)}, in.options().dtype(at::kDouble));
      auto* total = sums.mutable_data_ptr<double>();
      run(target, target.kernels->squares,
          SquaresCall{in.const_data_ptr<float>(), size, total + 1, total});
      EXPECT_NEAR(sums[0].item<double>(), wanted, 1e-9 * wanted) << target.device;
    }
  }
}

}  // namespace
}  // namespace emoe::worker
