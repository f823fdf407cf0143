// Runs whose ranks share each layer, held to the same runs where every rank has it whole.
#include <filesystem>

#include <gtest/gtest.h>

#include "tests/format/tiny_config.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/comm/loopback_group.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/eval/expert_counts.h"
#include "worker/model/tensor_split.h"

namespace emoe::worker {
namespace {

std::vector<testing::TinyModel> frozen_methods(at::ScalarType dtype) {
  std::vector<testing::TinyModel> methods = testing::tiny_methods(dtype);
  std::erase_if(methods, &testing::TinyModel::full);
  for (testing::TinyModel& model : methods) model.separated = true;  // no choice turns by rounding
  // Every linear has an adapter, with and without dropout, dense too.
  for (const double dropout : {0.0, 0.1}) {
    testing::TinyModel all{.dtype = dtype};
    all.lora = {.rank = 3, .alpha = 6.0, .dropout = dropout, .targets = linear_names()};
    methods.push_back(all);
  }
  testing::TinyModel many = methods[1];
  many.experts = 12;  // that four ranks can share
  methods.push_back(many);
  many.ffn = "sparse";
  methods.push_back(many);
  return methods;
}

testing::TinyRun run_of(const testing::TinyModel& model, int ranks, int tensor) {
  testing::TinyRun run = testing::standard_run();
  run.model = model;
  run.model.tensor = tensor;
  run.world_size = ranks;
  run.options.eval_every = 3;
  return run;
}

std::map<int64_t, std::vector<int64_t>> selections(const testing::RankOutcome& rank) {
  std::map<int64_t, std::vector<int64_t>> layers;
  const ExpertCounts all = ExpertCounts::from_json(rank.expert_stats);
  for (const auto& [layer, counts] : all.layers()) {
    layers[layer] = counts.selections;
  }
  return layers;
}

// `near` bounds how far the parameters are off, as a part of what they moved, and `losses` the losses.
void expect_same_training(const std::vector<testing::RankOutcome>& shared,
                          const testing::RankOutcome& whole, const testing::TinyModel& model,
                          double near, double losses) {
  ASSERT_EQ(whole.error, "");
  for (const testing::RankOutcome& rank : shared) {
    ASSERT_EQ(rank.error, "");
    testing::expect_same_bits(rank, shared.front());
    EXPECT_EQ(selections(rank), selections(whole));
    EXPECT_LT(testing::distance(rank, whole, model), near);
    ASSERT_EQ(rank.sink.steps.size(), whole.sink.steps.size());
    for (size_t s = 0; s < whole.sink.steps.size(); ++s) {
      EXPECT_NEAR(rank.sink.steps[s].loss, whole.sink.steps[s].loss, losses) << s;
      EXPECT_EQ(rank.sink.steps[s].ranks, std::ssize(shared));
      EXPECT_EQ(rank.sink.steps[s].tokens, whole.sink.steps[s].tokens);
    }
    ASSERT_EQ(rank.sink.evals.size(), whole.sink.evals.size());
    for (size_t e = 0; e < whole.sink.evals.size(); ++e) {
      EXPECT_NEAR(rank.sink.evals[e].loss, whole.sink.evals[e].loss, losses);
      EXPECT_NEAR(rank.sink.evals[e].loss_dense, whole.sink.evals[e].loss_dense, losses);
    }
  }
}

// In half precision each part of a sum is rounded by itself, and two runs that round elsewhere part quickly:
// by up to 0.18 of what a parameter moved. That fp32 agrees shows that nothing else differs.
TEST(TensorParallel, LearnsWhatWholeLayersLearn) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const testing::TinyModel& model : frozen_methods(dtype)) {
      testing::TinyModel exact = model;
      exact.dtype = at::kFloat;
      for (const auto& [ranks, tensor] : std::vector<std::pair<int, int>>{{2, 2}, {4, 2}, {4, 4}}) {
        if (model.experts % tensor != 0) continue;
        SCOPED_TRACE(std::to_string(model.experts) + " experts, " + toString(dtype) + ", dropout " +
                     std::to_string(model.lora.dropout) + ", " + std::to_string(ranks) +
                     " ranks, tensor " + std::to_string(tensor));
        const auto in_fp32 = testing::run_ranks(run_of(exact, ranks / tensor, 1));
        const auto shared = testing::run_ranks(run_of(model, ranks, tensor));
        if (dtype == at::kFloat) {
          expect_same_training(shared, in_fp32.front(), model, 2e-4, 2e-5);
          continue;
        }
        expect_same_training(shared, in_fp32.front(), model, 0.25, 0.02);
      }
    }
  }
}

TEST(TensorParallel, WithSharedWeightsItHasTheSameBits) {
  for (testing::TinyModel model : frozen_methods(at::kFloat)) {
    if (model.experts % 2 != 0) continue;
    const auto plain = testing::run_ranks(run_of(model, 4, 2));
    model.shard_base = true;
    const auto sharded = testing::run_ranks(run_of(model, 4, 2));
    for (int rank = 0; rank < 4; ++rank) {
      ASSERT_EQ(sharded[rank].error, "");
      testing::expect_same_bits(plain[rank], sharded[rank]);
    }
  }
}

TEST(TensorParallel, ResumesWithAnyNumberOfRanks) {
  const testing::TinyModel model = frozen_methods(at::kFloat)[1];
  const auto whole = testing::run_ranks(run_of(model, 1, 1));
  for (const auto& [before, after] : std::vector<std::pair<int, int>>{{2, 1}, {1, 2}, {2, 2}}) {
    const emoe::testing::TempDir dir;
    testing::TinyRun first = run_of(model, 2, before);
    first.options.checkpoint.folder = dir.path();
    // One rank is asked, one that writes nothing.
    first.stop = [](int rank, int64_t edge) {
      return rank == 1 && edge == 2 ? StopRequest::checkpoint_and_stop : StopRequest::none;
    };
    for (const auto& rank : testing::run_ranks(first)) {
      ASSERT_EQ(rank.error, "");
      EXPECT_EQ(rank.result.end, TrainEnd::preempted);
      EXPECT_EQ(rank.result.steps_done, 3);
    }
    testing::TinyRun second = run_of(model, 2, after);
    second.options.checkpoint.folder = dir.path();
    for (const auto& rank : testing::run_ranks(second)) {
      ASSERT_EQ(rank.error, "");
      EXPECT_EQ(rank.result.first_step, 3);
      EXPECT_LT(testing::distance(rank, whole.front(), model), 2e-4);
      EXPECT_EQ(rank.expert_stats, whole.front().expert_stats);
    }
  }
}

TEST(TensorParallel, ARankThatFailsDoesNotLeaveTheOthersInASum) {
  testing::TinyRun run = run_of(frozen_methods(at::kFloat)[1], 4, 2);
  int backwards = 0;
  run.on_phase = [&](int rank, Phase phase, Decoder& /*model*/) {
    if (rank == 1 && phase == Phase::backward && ++backwards == 3) {
      throw std::runtime_error("this rank is gone");
    }
  };
  const auto ranks = testing::run_ranks(run);
  EXPECT_EQ(ranks[1].error, "this rank is gone");
  for (const int other : {0, 2, 3}) EXPECT_NE(ranks[other].error, "") << "rank " << other;
}

TEST(TensorParallel, ANumberThatIsNotFiniteEndsAllRanks) {
  testing::TinyRun run = run_of(frozen_methods(at::kFloat)[0], 4, 2);
  run.poisoned_rank = 3;
  for (const auto& rank : testing::run_ranks(run)) EXPECT_EQ(rank.error_type, "NonFiniteError");
}

TEST(TensorSplit, SaysWhatRanksCannotShare) {
  auto groups = testing::make_loopback_group(3);
  const auto group = make_cpu_group(*groups[0]);
  const DecoderConfig config = emoe::testing::tiny_config();  // 4 heads
  EXPECT_THROW(TensorSplit(config, 0, group.get()), std::invalid_argument);
  DecoderConfig fits = emoe::testing::tiny_config({.hidden = 36, .d_ff = 48, .heads = 6});
  EXPECT_FALSE(TensorSplit(fits, 6, group.get()).whole());
  EXPECT_THROW(TensorSplit(fits, 4, group.get()), std::invalid_argument);
  fits.num_key_value_heads = 2;
  EXPECT_THROW(TensorSplit(fits, 6, group.get()), std::invalid_argument);
  fits.num_key_value_heads = 1;  // which all three read
  EXPECT_FALSE(TensorSplit(fits, 6, group.get()).whole());
}

}  // namespace
}  // namespace emoe::worker
