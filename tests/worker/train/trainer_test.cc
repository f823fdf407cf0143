#include "worker/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/comm/loopback_group.h"
#include "tests/worker/train/tiny_run.h"

namespace emoe::worker {
namespace {

using testing::distance;
using testing::expect_same_bits;
using testing::RankOutcome;
using testing::run_ranks;
using testing::standard_run;
using testing::tiny_methods;
using testing::TinyModel;
using testing::TinyRun;

// Rounding of sums in another order, made larger by Adam (see the reference's README: 7e-4 is what
// the oracle sees against itself).
constexpr double kRounding = 2e-3;

TEST(Trainer, LossFallsWithEveryMethod) {
  for (const TinyModel& model : tiny_methods()) {
    TinyRun run = standard_run();
    run.model = model;
    run.options.batches.max_steps = 40;
    run.options.eval_every = 20;
    run.options.learning_rate = model.full ? 1e-2 : 3e-2;
    const RankOutcome outcome = std::move(run_ranks(run)[0]);
    ASSERT_EQ(outcome.error, "");
    ASSERT_EQ(outcome.sink.steps.size(), 40);
    EXPECT_EQ(outcome.sink.plan.steps_planned, 40);
    EXPECT_EQ(outcome.sink.plan.first_step, 0);
    ASSERT_EQ(outcome.sink.evals.size(), 3);
    EXPECT_EQ(outcome.sink.evals[1].step, 20);
    EXPECT_LT(outcome.sink.evals[2].loss, 0.9 * outcome.sink.evals[0].loss);
    EXPECT_EQ(outcome.sink.evals[2].loss == outcome.sink.evals[2].loss_dense, model.experts == 0);
    EXPECT_EQ(outcome.sink.steps[0].learning_rate, 0.0);  // warm-up
    EXPECT_EQ(outcome.result.end, TrainEnd::finished);
  }
}

TEST(Trainer, RecordsCountTheGlobalBatch) {
  TinyRun run = standard_run();
  run.options.batches = {.global_batch = 4, .epochs = 1, .drop_last = false, .shuffle = false};
  run.options.micro_batches = {.max_tokens = 32, .packing = false};
  run.train.resize(6);
  run.world_size = 2;
  const auto ranks = run_ranks(run);
  for (const RankOutcome& rank : ranks) {
    ASSERT_EQ(rank.error, "");
    ASSERT_EQ(rank.sink.steps.size(), 2);
    for (int64_t step = 0; step < 2; ++step) {
      int64_t tokens = 0;
      int64_t targets = 0;
      for (int64_t r = step * 4; r < std::min<int64_t>(6, step * 4 + 4); ++r) {
        tokens += static_cast<int64_t>(run.train[r].ids.size());
        targets += run.train[r].target_tokens();
      }
      EXPECT_EQ(rank.sink.steps[step].tokens, tokens);
      EXPECT_EQ(rank.sink.steps[step].target_tokens, targets);
    }
    EXPECT_EQ(rank.sink.steps[0].samples, 4);
    EXPECT_EQ(rank.sink.steps[1].samples, 2);
    EXPECT_EQ(rank.sink.steps[0].loss, ranks[0].sink.steps[0].loss);
    EXPECT_EQ(rank.sink.steps[0].padding_tokens, ranks[0].sink.steps[0].padding_tokens);
    EXPECT_TRUE(rank.sink.steps[0].phase_seconds.contains(Phase::comm));
    EXPECT_GT(rank.sink.steps[0].flops, rank.sink.steps[1].flops);
    EXPECT_EQ(rank.sink.steps[0].flops, ranks[0].sink.steps[0].flops);
  }
}

// The row behind the text of one of two templates, which begin alike.
Row with_template(Row row, bool first) {
  const std::vector<int32_t> text =
      first ? std::vector<int32_t>{1, 5, 6, 7, 20, 21} : std::vector<int32_t>{1, 5, 6, 30};
  row.ids.insert(row.ids.begin(), text.begin(), text.end());
  for (TokenSpan& span : row.targets) {
    span.begin += static_cast<int32_t>(text.size());
    span.end += static_cast<int32_t>(text.size());
  }
  return row;
}

struct Variant {
  int world_size;
  MicroBatchOptions micro_batches;
};
const std::vector<Variant>& variants() {
  static const std::vector<Variant> list = {
      {1, {.max_tokens = 1, .packing = true}},     {1, {.max_tokens = 1'000'000, .packing = true}},
      {1, {.max_tokens = 100, .packing = false}},  {2, {.max_tokens = 64, .packing = true}},
      {3, {.max_tokens = 1000, .packing = false}}, {4, {.max_tokens = 40, .packing = true}},
      {12, {.max_tokens = 40, .packing = true}}};  // more ranks than the 8 rows
  return list;
}

// Golden rule of data parallelism: how the rows are spread changes nothing but rounding, dropout
// included.
TEST(Trainer, RanksMicroBatchesAndPackingDoNotChangeTheResult) {
  for (const TinyModel& model : tiny_methods()) {
    for (const auto reduction : {LossReduction::token, LossReduction::example}) {
      TinyRun run = standard_run();
      run.model = model;
      run.options.loss_reduction = reduction;
      const auto base = run_ranks(run);
      ASSERT_EQ(base[0].error, "");
      for (const Variant& variant : variants()) {
        run.world_size = variant.world_size;
        run.options.micro_batches = variant.micro_batches;
        const auto other = run_ranks(run);
        for (const RankOutcome& rank : other) {
          ASSERT_EQ(rank.error, "");
          expect_same_bits(rank, other[0]);
        }
        EXPECT_LT(distance(base[0], other[0], model), kRounding)
            << variant.world_size << " ranks, " << variant.micro_batches.max_tokens;
        for (size_t s = 0; s < base[0].sink.steps.size(); ++s) {
          const StepRecord& a = base[0].sink.steps[s];
          const StepRecord& b = other[0].sink.steps[s];
          EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss);
          EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-4 * a.grad_norm);
          EXPECT_EQ(a.tokens, b.tokens);
        }
        EXPECT_NEAR(base[0].sink.evals[0].loss, other[0].sink.evals[0].loss, 3e-7);
        EXPECT_TRUE(base[0].expert_stats == other[0].expert_stats);
      }
    }
  }
}

// What rows have in common at their beginnings, computed once, gives what computing it for each row
// gives, but for rounding: weights, losses, expert counts.
TEST(Trainer, SharedPrefixesDoNotChangeTheResult) {
  for (TinyModel model : tiny_methods()) {
    model.lora.dropout = 0.0;
    TinyRun run = standard_run();
    run.model = model;
    for (auto* rows : {&run.train, &run.eval}) {
      for (size_t i = 0; i < rows->size(); ++i) (*rows)[i] = with_template((*rows)[i], i % 2 == 0);
    }
    const auto plain = run_ranks(run);
    ASSERT_EQ(plain[0].error, "");
    for (const int world_size : {1, 2, 3, 4}) {
      run.world_size = world_size;
      run.options.micro_batches = {.max_tokens = 200, .packing = true, .share_prefixes = true};
      const auto shared = run_ranks(run);
      ASSERT_EQ(shared[0].error, "");
      EXPECT_LT(distance(plain[0], shared[0], model), kRounding) << world_size;
      for (size_t s = 0; s < plain[0].sink.steps.size(); ++s) {
        const StepRecord& a = plain[0].sink.steps[s];
        const StepRecord& b = shared[0].sink.steps[s];
        EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss);
        EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-5 * a.grad_norm);
        EXPECT_EQ(a.tokens, b.tokens);
        EXPECT_EQ(a.flops, b.flops);
      }
      EXPECT_NEAR(plain[0].sink.evals[0].loss, shared[0].sink.evals[0].loss, 3e-7);
      EXPECT_TRUE(plain[0].expert_stats == shared[0].expert_stats);
    }
  }
}

TEST(Trainer, RowsDoNotShareTokensWithDropout) {
  TinyRun run = standard_run();
  run.model.lora.dropout = 0.1;
  for (Row& row : run.train) row = with_template(row, true);
  run.options.micro_batches = {.packing = true, .share_prefixes = true};
  EXPECT_NE(run_ranks(run)[0].error.find("dropout"), std::string::npos);
}

// A step of many micro-batches, and a checkpoint of many tensors, may take longer than a rank may be
// without a sign of getting on.
TEST(Trainer, TellsOfEachPieceOfWork) {
  const emoe::testing::TempDir dir;
  TinyRun run = standard_run();
  run.eval.clear();
  run.options.micro_batches = {.max_tokens = 1};  // a row each
  const auto plain = run_ranks(run);
  ASSERT_EQ(plain[0].error, "");
  EXPECT_EQ(plain[0].sink.work_done, 6 * 8);

  run.options.checkpoint.folder = dir.path();
  run.options.checkpoint.every_steps = 6;
  const auto saving = run_ranks(run);
  const auto tensors = static_cast<int64_t>(saving[0].parameters.size());
  EXPECT_GE(saving[0].sink.work_done, 6 * 8 + 3 * tensors);  // written with both moments
  const auto resuming = run_ranks(run);
  EXPECT_EQ(resuming[0].result.first_step, 6);
  EXPECT_GE(resuming[0].sink.work_done, 3 + tensors);  // files hashed, tensors put back
}

TEST(Trainer, RepeatsBitForBit) {
  TinyRun run = standard_run();
  run.model = tiny_methods()[1];
  run.world_size = 2;
  const auto first = run_ranks(run);
  const auto second = run_ranks(run);
  expect_same_bits(first[0], second[0]);
  expect_same_bits(first[0], second[1]);
  for (size_t s = 0; s < first[0].sink.steps.size(); ++s) {
    EXPECT_EQ(first[0].sink.steps[s].loss, second[1].sink.steps[s].loss);
    EXPECT_EQ(first[0].sink.steps[s].grad_norm, second[1].sink.steps[s].grad_norm);
  }
}

// As between GPUs: the host's group carries everything but the gradients.
TEST(Trainer, GradientsGoThroughTheDeviceGroupAlone) {
  TinyRun run = standard_run();
  run.world_size = 2;
  run.eval.clear();
  const auto usual = run_ranks(run);
  auto hosts = testing::make_loopback_group(2);
  auto others = testing::make_loopback_group(2);
  std::vector<RankOutcome> ranks(2);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        ranks[rank] = testing::run_rank(run, *hosts[rank], *make_cpu_group(*others[rank]));
      });
    }
  }
  for (int rank = 0; rank < 2; ++rank) {
    ASSERT_EQ(ranks[rank].error, "");
    expect_same_bits(ranks[rank], usual[0]);
    EXPECT_EQ(others[rank]->counters()->started, 6);
    EXPECT_STREQ(others[rank]->counters()->operation, "");
    EXPECT_GT(others[rank]->counters()->of(CollectiveKind::all_reduce).bytes, 0) << "one a step";
    EXPECT_EQ(hosts[rank]->counters()->started, 1) << "the counts of a dense model, which are none";
    EXPECT_EQ(hosts[rank]->counters()->of(CollectiveKind::all_reduce).bytes, 0);
  }
}

TEST(Trainer, ExpertLoadsAreOfTheStepAndAddUpToTheRuns) {
  TinyRun run = standard_run();
  run.model = {.full = true, .experts = 6};
  run.options.batches.global_batch = 2;
  const RankOutcome outcome = std::move(run_ranks(run)[0]);
  ASSERT_EQ(outcome.error, "");
  ASSERT_EQ(outcome.sink.loads.size(), 2 * outcome.sink.steps.size());
  std::vector<std::vector<int64_t>> sums(2, std::vector<int64_t>(6, 0));
  for (size_t i = 0; i < outcome.sink.loads.size(); ++i) {
    const ExpertLoad& load = outcome.sink.loads[i];
    EXPECT_EQ(load.layer, static_cast<int64_t>(i % 2));
    EXPECT_EQ(std::reduce(load.selections.begin(), load.selections.end()),
              2 * outcome.sink.steps[i / 2].tokens);
    double squares = 0.0;
    const double mean = 2.0 * static_cast<double>(outcome.sink.steps[i / 2].tokens) / 6.0;
    for (const int64_t n : load.selections) squares += std::pow(static_cast<double>(n) - mean, 2);
    EXPECT_NEAR(load.load_cv, std::sqrt(squares / 6.0) / mean, 1e-12);
    EXPECT_NEAR(load.max_over_mean, static_cast<double>(std::ranges::max(load.selections)) / mean,
                1e-12);
    EXPECT_EQ(load.dead, std::ranges::count(load.selections, 0));
    for (size_t e = 0; e < 6; ++e) sums[i % 2][e] += load.selections[e];
  }
  EXPECT_NE(outcome.sink.loads[0].selections, outcome.sink.loads[2].selections);
  const ExpertCounts total = ExpertCounts::from_json(outcome.expert_stats);
  EXPECT_EQ(total.layers().at(0).selections, sums[0]);
  EXPECT_EQ(total.layers().at(1).selections, sums[1]);
}

TEST(Trainer, OneRanksStopStopsAllAtTheSameStep) {
  TinyRun run = standard_run();
  run.world_size = 3;
  run.stop = [](int rank, int64_t edge) {
    return rank == 1 && edge >= 2 ? StopRequest::stop : StopRequest::none;
  };
  for (const RankOutcome& rank : run_ranks(run)) {
    ASSERT_EQ(rank.error, "");
    EXPECT_EQ(rank.result.end, TrainEnd::stopped);
    EXPECT_EQ(rank.result.steps_done, 3);
    EXPECT_EQ(rank.sink.checkpoints.size(), 0);
  }
}

TEST(Trainer, ANonFiniteNumberNamesStepRankAndTensorOnEveryRank) {
  TinyRun run = standard_run();
  run.world_size = 2;
  run.poisoned_rank = 1;
  run.eval.clear();
  const auto start = testing::make_tiny_model(run.model);
  for (const RankOutcome& rank : run_ranks(run)) {
    EXPECT_EQ(rank.error_type, "NonFiniteError");
    EXPECT_EQ(rank.error, "step 0, rank 1: loss is not finite");
    EXPECT_EQ(rank.sink.non_finite, std::vector<int64_t>{0});
    EXPECT_EQ(rank.sink.steps.size(), 0);
    for (const Parameter& parameter : start->parameters()) {
      EXPECT_TRUE(rank.parameters.at(parameter.name).equal(parameter.tensor.detach()));
    }
  }
}

TEST(Trainer, ABadGradientIsNamedAndTouchesNoWeight) {
  TinyRun run = standard_run();
  run.world_size = 3;
  run.eval.clear();
  const auto start = testing::make_tiny_model(run.model);
  const std::string name = start->parameters()[2].name;
  run.on_phase = [](int rank, Phase phase, Decoder& model) {
    if (rank == 2 && phase == Phase::comm) {
      model.parameters()[2].tensor.mutable_grad()[1][3] = INFINITY;
    }
  };
  for (const RankOutcome& rank : run_ranks(run)) {
    EXPECT_EQ(rank.error_type, "NonFiniteError");
    EXPECT_EQ(rank.error, "step 0, rank 2: gradient of " + name + " is not finite");
    EXPECT_EQ(rank.sink.non_finite, std::vector<int64_t>{0});
    for (const Parameter& parameter : start->parameters()) {
      EXPECT_TRUE(rank.parameters.at(parameter.name).equal(parameter.tensor.detach()));
    }
  }
}

// Each rank's gradient is a number, their sum is not.
TEST(Trainer, ASumThatOverflowsIsNamedToo) {
  TinyRun run = standard_run();
  run.world_size = 2;
  run.eval.clear();
  run.on_phase = [](int /*rank*/, Phase phase, Decoder& model) {
    if (phase == Phase::comm) model.parameters()[1].tensor.mutable_grad().fill_(3e38F);
  };
  const auto ranks = run_ranks(run);
  for (const RankOutcome& rank : ranks) {
    EXPECT_EQ(rank.error, "step 0, sum over ranks: gradient of " +
                              testing::make_tiny_model(run.model)->parameters()[1].name +
                              " is not finite");
  }
}

TEST(Trainer, SaysWhatIsMissing) {
  TinyRun run = standard_run();
  run.options.batches = {.global_batch = 100, .drop_last = true};
  EXPECT_NE(run_ranks(run)[0].error.find("train.global_batch is 100"), std::string::npos);
  run = standard_run();
  run.model.lora.rank = 0;
  EXPECT_EQ(run_ranks(run)[0].error, "the model has no trainable parameter");
}

}  // namespace
}  // namespace emoe::worker
