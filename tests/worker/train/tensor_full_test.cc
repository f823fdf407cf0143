// Full tuning where ranks share each layer, held to the same runs where every rank has it whole: what is
// trained, what a rank keeps of it, and checkpoints.
#include <cstring>
#include <filesystem>
#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/eval/expert_counts.h"
#include "worker/train/checkpoint_model.h"

namespace emoe::worker {
namespace {

struct Grid {
  int ranks = 2;
  int tensor = 2;
  bool shard_base = false;
};

// Two that share each layer, two such pairs, and four of which two each read the same key head; the pairs also with shared weights.
const std::vector<Grid>& grids() {
  static const std::vector<Grid> all = {
      {2, 2, false}, {4, 2, false}, {4, 4, false}, {2, 2, true}, {4, 2, true}};
  return all;
}

std::vector<testing::TinyModel> full_methods(at::ScalarType dtype) {
  std::vector<testing::TinyModel> methods = {
      {.full = true, .dtype = dtype},
      {.full = true, .dtype = dtype, .extras = true},
      {.full = true, .experts = 12, .dtype = dtype, .extras = true},
      {.full = true, .experts = 12, .dtype = dtype, .ffn = "sparse"}};
  for (testing::TinyModel& model : methods) model.separated = true;  // no choice turns by rounding
  return methods;
}

testing::TinyRun run_of(const testing::TinyModel& model, const Grid& grid) {
  testing::TinyRun run = testing::standard_run();
  run.model = model;
  run.model.tensor = grid.tensor;
  run.model.shard_base = grid.shard_base;
  run.world_size = grid.ranks;
  run.options.learning_rate = 1e-3;  // AdamW's first steps turn rounding of small gradients up
  run.options.eval_every = 3;
  return run;
}

std::string name_of(const testing::TinyModel& model, const Grid& grid) {
  return std::string(toString(model.dtype)) + ", " + model.ffn + ", " +
         std::to_string(model.experts) + " experts" + (model.extras ? ", extras" : "") + ", " +
         std::to_string(grid.ranks) + " ranks, tensor " + std::to_string(grid.tensor) +
         (grid.shard_base ? ", shared weights" : "");
}

void expect_same_files(const testing::RankOutcome& a, const testing::RankOutcome& b) {
  ASSERT_FALSE(a.whole.empty());
  ASSERT_EQ(a.whole.size(), b.whole.size());
  for (const auto& [name, tensor] : a.whole) {
    EXPECT_EQ(
        0, std::memcmp(tensor.const_data_ptr(), b.whole.at(name).const_data_ptr(), tensor.nbytes()))
        << name;
  }
}

// `losses` bounds how far the losses are off, `norms` how far the norms of the gradient as a part of them.
void expect_same_training(const std::vector<testing::RankOutcome>& shared,
                          const testing::RankOutcome& whole, double losses, double norms) {
  ASSERT_EQ(whole.error, "");
  for (const testing::RankOutcome& rank : shared) {
    ASSERT_EQ(rank.error, "");
    expect_same_files(rank, shared.front());
    ASSERT_EQ(rank.sink.steps.size(), whole.sink.steps.size());
    for (size_t s = 0; s < whole.sink.steps.size(); ++s) {
      const StepRecord& step = rank.sink.steps[s];
      EXPECT_NEAR(step.loss, whole.sink.steps[s].loss, losses) << s;
      const double norm = whole.sink.steps[s].grad_norm;
      EXPECT_NEAR(step.grad_norm / norm, 1.0, norms) << s;
      EXPECT_EQ(step.grad_norm, shared.front().sink.steps[s].grad_norm) << s;
      EXPECT_EQ(step.tokens, whole.sink.steps[s].tokens);
    }
    ASSERT_EQ(rank.sink.evals.size(), whole.sink.evals.size());
    for (size_t e = 0; e < whole.sink.evals.size(); ++e) {
      EXPECT_NEAR(rank.sink.evals[e].loss, whole.sink.evals[e].loss, losses);
      EXPECT_NEAR(rank.sink.evals[e].loss_dense, whole.sink.evals[e].loss_dense, losses);
    }
  }
}

TEST(TensorFullTuning, LearnsWhatWholeLayersLearn) {
  for (const testing::TinyModel& model : full_methods(at::kFloat)) {
    for (const Grid& grid : grids()) {
      SCOPED_TRACE(name_of(model, grid));
      const auto whole = testing::run_ranks(run_of(model, {grid.ranks / grid.tensor, 1}));
      const auto shared = testing::run_ranks(run_of(model, grid));
      expect_same_training(shared, whole.front(), 2e-5, 1e-5);
      for (const auto& rank : shared) {
        EXPECT_LT(testing::distance_of_files(rank, whole.front(), model), 1e-2);
        EXPECT_EQ(rank.expert_stats, whole.front().expert_stats);
      }
    }
  }
}

// Rounded elsewhere in half precision. How far a weight then is off says little as a part of what it moved, since
// AdamW's first steps turn rounding of small gradients up; so as a part of itself.
TEST(TensorFullTuning, LearnsItInHalfPrecision) {
  for (const testing::TinyModel& model : full_methods(at::kBFloat16)) {
    for (const Grid& grid : grids()) {
      SCOPED_TRACE(name_of(model, grid));
      const auto whole = testing::run_ranks(run_of(model, {grid.ranks / grid.tensor, 1}));
      const auto shared = testing::run_ranks(run_of(model, grid));
      expect_same_training(shared, whole.front(), 0.02, 0.03);
      for (const auto& [name, tensor] : whole.front().whole) {
        const double off = (shared.front().whole.at(name) - tensor).norm().item<double>();
        EXPECT_LT(off, 1e-2 * (tensor.norm().item<double>() + 1.0)) << name;
      }
    }
  }
}

// What all ranks of a group have is the same after every step of all of them, not only where files read it.
TEST(TensorFullTuning, WhatAllHaveStaysTheSameBits) {
  const testing::TinyModel model = full_methods(at::kFloat)[2];
  const auto ranks = testing::run_ranks(run_of(model, {4, 4}));
  const std::string layer = "model.layers.1.";
  for (const std::string& name :
       {std::string("model.embed_tokens.weight"), std::string("model.norm.weight"),
        layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight",
        layer + "self_attn.q_norm.weight", layer + "self_attn.k_norm.weight"}) {
    for (const auto& rank : ranks) {
      ASSERT_EQ(rank.error, "");
      EXPECT_TRUE(rank.parameters.at(name).equal(ranks.front().parameters.at(name))) << name;
    }
  }
  for (const char* part : {"k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"}) {
    const std::string name = layer + "self_attn." + part;
    EXPECT_TRUE(ranks[0].parameters.at(name).equal(ranks[1].parameters.at(name))) << name;
    EXPECT_TRUE(ranks[2].parameters.at(name).equal(ranks[3].parameters.at(name))) << name;
    if (name.ends_with("weight")) {
      EXPECT_FALSE(ranks[0].parameters.at(name).equal(ranks[2].parameters.at(name))) << name;
    }
  }
}

TEST(TensorFullTuning, ARankKeepsItsPartOnly) {
  const auto elements = [](const testing::RankOutcome& rank, const char* of) {
    int64_t sum = 0;
    for (const auto& [name, tensor] : rank.parameters) {
      if (name.find(of) != std::string::npos) sum += tensor.numel();
    }
    return sum;
  };
  const testing::TinyModel model{.full = true, .experts = 12};
  const auto whole = testing::run_ranks(run_of(model, {1, 1}));
  for (const Grid& grid : grids()) {
    const auto ranks = testing::run_ranks(run_of(model, grid));
    const double shards = grid.shard_base ? grid.ranks / grid.tensor : 1.0;
    for (const auto& rank : ranks) {
      // Of shared weights a rank has an equal part of all of a layer.
      const char* of = shards > 1.0 ? "layers." : "mlp.";
      const auto all = static_cast<double>(elements(whole.front(), of));
      const double share = static_cast<double>(elements(rank, of)) * grid.tensor * shards / all;
      EXPECT_NEAR(share, 1.0, shards > 1.0 ? 0.1 : 0.0) << name_of(model, grid);
    }
  }
}

void check_resumed(const Grid& before, const Grid& after, const testing::TinyModel& model,
                   const testing::RankOutcome& whole) {
  SCOPED_TRACE(name_of(model, before) + ", then " + name_of(model, after));
  const emoe::testing::TempDir dir;
  testing::TinyRun first = run_of(model, before);
  first.options.checkpoint.folder = dir.path();
  // One rank is asked.
  first.stop = [&](int rank, int64_t edge) {
    return rank == before.ranks - 1 && edge == 2 ? StopRequest::checkpoint_and_stop
                                                 : StopRequest::none;
  };
  for (const auto& rank : testing::run_ranks(first)) {
    ASSERT_EQ(rank.error, "");
    EXPECT_EQ(rank.result.end, TrainEnd::preempted);
    EXPECT_EQ(rank.result.steps_done, 3);
  }
  testing::TinyRun second = run_of(model, after);
  second.options.checkpoint.folder = dir.path();
  for (const auto& rank : testing::run_ranks(second)) {
    ASSERT_EQ(rank.error, "");
    EXPECT_EQ(rank.result.first_step, 3);
    if (after.tensor > 1 || !after.shard_base) {
      EXPECT_LT(testing::distance_of_files(rank, whole, model), 1e-2);
    }
    EXPECT_NEAR(rank.sink.steps.back().loss, whole.sink.steps.back().loss, 2e-5);
    EXPECT_EQ(rank.expert_stats, whole.expert_stats);
  }
}

TEST(TensorFullTuning, ResumesWithAnyNumberOfRanks) {
  const testing::TinyModel model = full_methods(at::kFloat)[2];
  const auto whole = testing::run_ranks(run_of(model, {1, 1}));
  const std::vector<std::pair<Grid, Grid>> changes = {
      {{2, 2}, {1, 1}},       {{1, 1}, {2, 2}},       {{2, 2}, {4, 4}},
      {{4, 2}, {2, 1, true}}, {{2, 1, true}, {4, 2}}, {{4, 2, true}, {2, 2}},
      {{3, 1}, {4, 2, true}}, {{2, 2}, {2, 2}}};
  for (const auto& [before, after] : changes) check_resumed(before, after, model, whole.front());
}

// Bit for bit: what is stored is what the run has, moments included.
TEST(TensorFullTuning, AResumedRunGoesOnBitForBit) {
  const testing::TinyModel model = full_methods(at::kFloat)[2];
  for (const Grid& grid : grids()) {
    SCOPED_TRACE(name_of(model, grid));
    const emoe::testing::TempDir dir;
    testing::TinyRun run = run_of(model, grid);
    const auto straight = testing::run_ranks(run);
    run.options.checkpoint.folder = dir.path();
    run.stop = [&](int /*rank*/, int64_t edge) {
      return edge == 1 ? StopRequest::checkpoint_and_stop : StopRequest::none;
    };
    ASSERT_EQ(testing::run_ranks(run).front().error, "");
    run.stop = nullptr;
    const auto resumed = testing::run_ranks(run);
    for (int rank = 0; rank < grid.ranks; ++rank) {
      ASSERT_EQ(resumed[rank].error, "");
      testing::expect_same_bits(resumed[rank], straight[rank]);
    }
  }
}

// The export reads the last checkpoint, of which no rank has all.
TEST(TensorFullTuning, ItsLastCheckpointIsTheModel) {
  const testing::TinyModel model = full_methods(at::kFloat)[2];
  const emoe::testing::TempDir dir;
  testing::TinyRun run = run_of(model, {4, 2, true});
  run.options.checkpoint.folder = dir.path();
  const auto ranks = testing::run_ranks(run);
  ASSERT_EQ(ranks.front().error, "");
  ASSERT_NE(ranks.front().result.checkpoint, "");
  const auto same = testing::make_tiny_model(model);
  const auto stored = make_checkpoint_model(same->options(), ranks.front().result.checkpoint);
  ASSERT_TRUE(stored.ok()) << stored.status();
  for (const Parameter& parameter : (*stored)->parameters()) {
    EXPECT_TRUE(parameter.stored().equal(ranks.front().whole.at(parameter.name))) << parameter.name;
  }
}

TEST(TensorFullTuning, ANumberThatIsNotFiniteEndsAllRanks) {
  for (const Grid& grid : grids()) {
    testing::TinyRun run = run_of(full_methods(at::kFloat)[0], grid);
    run.poisoned_rank = grid.tensor - 1;
    for (const auto& rank : testing::run_ranks(run)) {
      EXPECT_EQ(rank.error_type, "NonFiniteError") << rank.error;
    }
    // In one rank's part of a gradient, where no loss shows it.
    run.poisoned_rank = -1;
    run.on_phase = [&](int rank, Phase phase, Decoder& model) {
      if (rank != 1 || phase != Phase::comm) return;
      const at::NoGradGuard no_grad;
      for (Parameter& parameter : model.parameters()) {
        if (parameter.name.ends_with("proj.weight")) {
          parameter.tensor.mutable_grad().fill_(std::numeric_limits<float>::quiet_NaN());
        }
      }
    };
    for (const auto& rank : testing::run_ranks(run)) {
      EXPECT_EQ(rank.error_type, "NonFiniteError") << rank.error;
    }
  }
}

// The others go on putting tensors together with it, so that all ranks come to the same end.
TEST(TensorFullTuning, ADiskThatIsFullForOneRankCostsThatCheckpointOnly) {
  for (const Grid& grid : std::vector<Grid>{{2, 2}, {4, 2, true}, {2, 1, true}}) {
    SCOPED_TRACE(name_of({.full = true}, grid));
    const emoe::testing::TempDir dir;
    testing::TinyRun run = run_of(full_methods(at::kFloat)[2], grid);
    run.options.checkpoint = {
        .folder = dir / "checkpoints", .every_steps = 4, .fingerprint = "spec"};
    run.on_work_done = [&](int rank) {
      const std::filesystem::path folder = dir / "checkpoints/step_00000004.tmp";
      if (rank != 1 || !std::filesystem::exists(folder)) return;
      const std::string file = "optimizer-00002-of-0000" + std::to_string(grid.ranks);
      std::error_code there_already;
      std::filesystem::create_symlink("/dev/full", folder / (file + ".safetensors"), there_already);
    };
    const auto ranks = testing::run_ranks(run);
    for (const auto& rank : ranks) EXPECT_EQ(rank.error, "") << "training goes on";
    const std::string told = ranks[0].sink.messages.empty() ? "" : ranks[0].sink.messages.front();
    EXPECT_NE(told.find("rank 1"), std::string::npos) << told;
    EXPECT_NE(told.find("No space left"), std::string::npos) << told;
    EXPECT_FALSE(std::filesystem::exists(dir / "checkpoints/step_00000004.tmp"));
    EXPECT_FALSE(std::filesystem::exists(dir / "checkpoints/step_00000004"));
    EXPECT_TRUE(std::filesystem::exists(dir / "checkpoints/step_00000006/manifest.json"));
  }
}

// Where it dies among the gathers of a tensor, the others do not wait for it.
TEST(TensorFullTuning, ARankThatDiesInACheckpointCostsThatCheckpointOnly) {
  for (const Grid& grid : std::vector<Grid>{{2, 2}, {4, 2, true}}) {
    SCOPED_TRACE(name_of({.full = true}, grid));
    const emoe::testing::TempDir dir;
    testing::TinyRun run = run_of(full_methods(at::kFloat)[2], grid);
    const auto whole = testing::run_ranks(run);
    run.options.checkpoint = {
        .folder = dir / "checkpoints", .every_steps = 2, .fingerprint = "spec"};
    int written = 0;
    run.on_work_done = [&](int rank) {
      if (rank != 1 || !std::filesystem::exists(dir / "checkpoints/step_00000004.tmp")) return;
      if (++written == 5) throw std::runtime_error("this rank is gone");
    };
    const auto failed = testing::run_ranks(run);
    EXPECT_EQ(failed[1].error, "this rank is gone");
    EXPECT_NE(failed[0].error, "");
    EXPECT_FALSE(std::filesystem::exists(dir / "checkpoints/step_00000004"));
    run.on_work_done = nullptr;
    const auto resumed = testing::run_ranks(run);
    ASSERT_EQ(resumed[0].error, "");
    EXPECT_EQ(resumed[0].result.first_step, 2);
    for (int rank = 0; rank < grid.ranks; ++rank) {
      testing::expect_same_bits(whole[rank], resumed[rank]);
    }
  }
}

// Shards of two steps, one that is cut, one that is missing.
TEST(TensorFullTuning, WhatIsNoWholeCheckpointIsPassedOver) {
  const emoe::testing::TempDir dir;
  testing::TinyRun run = run_of(full_methods(at::kFloat)[2], {4, 2});
  run.options.batches.max_steps = 8;
  run.options.checkpoint = {
      .folder = dir / "checkpoints", .every_steps = 2, .keep = 9, .fingerprint = "spec"};
  ASSERT_EQ(testing::run_ranks(run).front().error, "");
  const auto shard = [&](const char* step, int number) {
    return dir / "checkpoints" / step /
           ("weights-0000" + std::to_string(number) + "-of-00004.safetensors");
  };
  std::filesystem::copy_file(shard("step_00000004", 2), shard("step_00000008", 2),
                             std::filesystem::copy_options::overwrite_existing);
  std::filesystem::remove(shard("step_00000006", 4));
  std::filesystem::resize_file(shard("step_00000004", 3), 100);
  const auto resumed = testing::run_ranks(run);
  ASSERT_EQ(resumed.front().error, "");
  EXPECT_EQ(resumed.front().result.first_step, 2);
}

TEST(TensorFullTuning, ARankThatFailsDoesNotLeaveTheOthersInASum) {
  for (const Grid& grid : grids()) {
    testing::TinyRun run = run_of(full_methods(at::kFloat)[1], grid);
    int backwards = 0;
    run.on_phase = [&](int rank, Phase phase, Decoder& /*model*/) {
      if (rank == 1 && phase == Phase::backward && ++backwards == 3) {
        throw std::runtime_error("this rank is gone");
      }
    };
    const auto ranks = testing::run_ranks(run);
    for (int rank = 0; rank < grid.ranks; ++rank) {
      EXPECT_NE(ranks[rank].error, "") << "rank " << rank;
    }
  }
}

}  // namespace
}  // namespace emoe::worker
