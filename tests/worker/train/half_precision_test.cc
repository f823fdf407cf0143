// Training in bf16, the default dtype: what holds bit for bit in fp32 must hold bit for bit here too,
// and what holds to rounding there holds to bf16's rounding here.
#include <filesystem>

#include <gtest/gtest.h>

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

// A product over other rows may round an activation the other way (2^-9 of it), and a token near a
// tie then takes another expert; Adam's division makes the first steps' differences larger.
constexpr double kBf16Rounding = 0.15;

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

TEST(HalfPrecision, RanksMicroBatchesAndPackingChangeNothingButRounding) {
  for (const TinyModel& model : methods()) {
    TinyRun run = run_of(model);
    const auto base = run_ranks(run);
    ASSERT_EQ(base[0].error, "");
    for (const auto& [world, micro_batches] :
         {std::pair(1, MicroBatchOptions{.max_tokens = 1, .packing = true}),
          std::pair(2, MicroBatchOptions{.max_tokens = 100, .packing = false}),
          std::pair(4, MicroBatchOptions{.max_tokens = 40, .packing = true})}) {
      run.world_size = world;
      run.options.micro_batches = micro_batches;
      const auto other = run_ranks(run);
      for (const RankOutcome& rank : other) expect_same_bits(rank, other[0]);
      EXPECT_LT(testing::distance(base[0], other[0], model), kBf16Rounding) << world << " ranks";
      for (size_t s = 0; s < base[0].sink.steps.size(); ++s) {
        const double loss = base[0].sink.steps[s].loss;
        EXPECT_NEAR(loss, other[0].sink.steps[s].loss, 5e-3 * loss);
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
  for (TinyModel model : methods()) {
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
