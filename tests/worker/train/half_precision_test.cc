// Training in bf16, the default dtype: what holds bit for bit in fp32 must hold bit for bit here too,
// and what holds to rounding there holds to bf16's rounding here.
#include <cmath>
#include <filesystem>
#include <map>
#include <numbers>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/train/tiny_run.h"

namespace emoe::worker {
namespace {

using emoe::testing::TempDir;
using testing::expect_same_bits;
using testing::RankOutcome;
using testing::run_ranks;
using testing::TinyModel;
using testing::TinyRun;

// bf16 rounds to within 2^-8 of a value, 2^-8 / sqrt(6) in the root mean square. A gradient has some
// 50 roundings on its way through two layers and back; independent ones add up to
// sqrt(50) * 2^-8 / sqrt(6) = 1.1 % (measured: 1.0 to 1.8 %). Three times that is not by rounding.
constexpr double kRounding = 0x1p-8;
const double kGradient = 3.0 * std::sqrt(50.0 / 6.0) * kRounding;
// Adam's first updates have the size of the learning rate and the sign of the gradient. With a
// relative error e in the gradient, a part e / pi of the signs turns, and the parameters end
// 2 sqrt(e / pi) of their way apart: 21 %.
const double kTraining = 2.0 * std::sqrt(kGradient / std::numbers::pi);

std::vector<TinyModel> methods() {
  return testing::tiny_methods(at::kBFloat16);
}

TinyRun run_of(const TinyModel& model) {
  TinyRun run = testing::standard_run();
  run.model = model;
  return run;
}

TEST(HalfPrecision, RepeatsBitForBit) {
  for (const TinyModel& model : methods()) {
    TinyRun run = run_of(model);
    run.world_size = 2;
    const auto first = run_ranks(run);
    const auto second = run_ranks(run);
    ASSERT_EQ(first[0].error, "");
    expect_same_bits(first[0], second[0]);
    expect_same_bits(first[0], second[1]);
    for (size_t s = 0; s < first[0].sink.steps.size(); ++s) {
      EXPECT_EQ(first[0].sink.steps[s].loss, second[1].sink.steps[s].loss);
    }
  }
}

// Ranks and micro-batches in which the rows of a step may as well be computed.
const std::vector<std::pair<int, MicroBatchOptions>>& other_orders() {
  static const std::vector<std::pair<int, MicroBatchOptions>> orders = {
      {1, {.max_tokens = 1, .packing = true}},
      {2, {.max_tokens = 100, .packing = false}},
      {4, {.max_tokens = 40, .packing = true}}};
  return orders;
}

// A token near a tie takes another expert when a score rounds the other way: another function, not
// a rounding of the same. So the tests of rounding have no such tokens.
std::vector<TinyModel> methods_without_ties() {
  std::vector<TinyModel> all = methods();
  for (TinyModel& model : all) model.separated = true;
  return all;
}

// Tokens that used each expert in all steps, by layer.
std::map<int64_t, std::vector<int64_t>> selections(const RankOutcome& outcome) {
  std::map<int64_t, std::vector<int64_t>> selections;
  const ExpertCounts all = ExpertCounts::from_json(outcome.expert_stats);
  for (const auto& [layer, counts] : all.layers()) {
    selections[layer] = counts.selections;
  }
  return selections;
}

using Gradients = std::map<std::string, at::Tensor>;

// What the optimiser gets in the first step, all ranks' sum; with B other than 0 in every adapter,
// so that A has a gradient too.
Gradients first_gradients(TinyRun run) {
  Gradients gradients;
  run.options.batches.max_steps = 1;
  run.eval.clear();
  run.on_phase = [&](int rank, Phase phase, Decoder& model) {
    const at::NoGradGuard no_grad;
    for (const Parameter& parameter : model.parameters()) {
      if (phase == Phase::data && parameter.name.find("lora_B") != std::string::npos) {
        parameter.tensor.copy_(testing::tiny_weight(parameter.name, parameter.tensor.sizes().vec()))
            .mul_(0.1);
      }
      if (phase == Phase::optimizer && rank == 0) {
        gradients[parameter.name] = parameter.tensor.grad().to(at::kDouble);
      }
    }
  };
  EXPECT_EQ(run_ranks(run)[0].error, "");
  return gradients;
}

// The largest ||a - b|| / ||b|| over the parameters.
double largest_error(const Gradients& a, const Gradients& b) {
  double largest = 0.0;
  for (const auto& [name, gradient] : b) {
    const double size = gradient.norm().item<double>();
    EXPECT_GT(size, 0.0) << name;
    largest = std::max(largest, (a.at(name) - gradient).norm().item<double>() / size);
  }
  return largest;
}

TEST(HalfPrecision, GradientsAreRightToRoundingInAnyOrder) {
  for (const TinyModel& model : methods_without_ties()) {
    TinyRun run = run_of(model);
    run.model.dtype = at::kFloat;
    const Gradients exact = first_gradients(run);
    run.model.dtype = at::kBFloat16;
    const Gradients base = first_gradients(run);
    EXPECT_LT(largest_error(base, exact), kGradient);
    for (const auto& [world, micro_batches] : other_orders()) {
      run.world_size = world;
      run.options.micro_batches = micro_batches;
      const Gradients other = first_gradients(run);
      EXPECT_LT(largest_error(other, exact), kGradient) << world << " ranks";
      EXPECT_LT(largest_error(other, base), kGradient) << world << " ranks";
    }
  }
}

TEST(HalfPrecision, RanksMicroBatchesAndPackingChangeNothingButRounding) {
  for (const TinyModel& model : methods_without_ties()) {
    TinyRun run = run_of(model);
    const auto base = run_ranks(run);
    ASSERT_EQ(base[0].error, "");
    for (const auto& [world, micro_batches] : other_orders()) {
      run.world_size = world;
      run.options.micro_batches = micro_batches;
      const auto other = run_ranks(run);
      for (const RankOutcome& rank : other) expect_same_bits(rank, other[0]);
      EXPECT_EQ(selections(other[0]), selections(base[0])) << "a token took another expert";
      EXPECT_LT(testing::distance(base[0], other[0], model), kTraining) << world << " ranks";
      for (size_t s = 0; s < base[0].sink.steps.size(); ++s) {
        // A mean over tokens whose roundings cancel is off by less than one of them.
        const double loss = base[0].sink.steps[s].loss;
        EXPECT_NEAR(loss, other[0].sink.steps[s].loss, kRounding * loss);
      }
    }
  }
}

TEST(HalfPrecision, ResumesBitForBit) {
  for (const TinyModel& model : methods()) {
    const TempDir dir;
    TinyRun run = run_of(model);
    run.world_size = 2;
    run.options.checkpoint.folder = dir / "whole";
    const auto whole = run_ranks(run);
    ASSERT_EQ(whole[0].error, "");
    run.options.checkpoint.folder = dir / "stopped";
    run.stop = [](int rank, int64_t edge) {
      return rank == 0 && edge == 2 ? StopRequest::checkpoint_and_stop : StopRequest::none;
    };
    ASSERT_EQ(run_ranks(run)[0].result.end, TrainEnd::preempted);
    run.stop = nullptr;
    const auto resumed = run_ranks(run);
    ASSERT_EQ(resumed[0].error, "");
    EXPECT_EQ(resumed[0].result.first_step, 3);
    expect_same_bits(resumed[0], whole[0]);
    for (size_t s = 0; s < resumed[0].sink.steps.size(); ++s) {
      EXPECT_EQ(resumed[0].sink.steps[s].loss, whole[0].sink.steps[s + 3].loss);
    }
  }
}

TEST(HalfPrecision, LearnsAsFullPrecisionDoes) {
  for (const TinyModel& model : methods()) {
    TinyRun run = run_of(model);
    run.options.batches.max_steps = 40;
    run.options.learning_rate = model.full ? 1e-2 : 3e-2;
    const auto half = run_ranks(run);
    run.model.dtype = at::kFloat;
    const auto exact = run_ranks(run);
    ASSERT_EQ(half[0].error, "");
    const double first = exact[0].sink.evals.front().loss;
    const double gain = first - exact[0].sink.evals.back().loss;
    EXPECT_GT(gain, 0.1 * first);
    EXPECT_NEAR(half[0].sink.evals.front().loss, first, 5e-3 * first);
    EXPECT_NEAR(half[0].sink.evals.back().loss, exact[0].sink.evals.back().loss, 0.1 * gain);
  }
}

}  // namespace
}  // namespace emoe::worker
