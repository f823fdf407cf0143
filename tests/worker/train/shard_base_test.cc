// Runs whose ranks share the base's weights, held to the same runs where every rank has them all.
#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/model/sharded_units.h"

namespace emoe::worker {
namespace {

TEST(UnitLayout, PartsCoverEveryElementOnce) {
  for (const int ranks : {1, 2, 3, 4, 7, 100}) {
    const UnitLayout layout({{5, 7}, {3}, {64, 2}, {1, 1}}, ranks);
    const at::Tensor whole = at::arange(layout.part() * ranks);
    std::vector<std::vector<int64_t>> seen(layout.tensors());
    for (int rank = 0; rank < ranks; ++rank) {
      for (const UnitLayout::Piece& piece : layout.pieces(rank)) {
        ASSERT_LE(piece.at + piece.end - piece.begin, layout.part());
        const at::Tensor flat = layout.view(whole, piece.tensor).flatten();
        EXPECT_EQ(flat[piece.begin].item<int64_t>(), rank * layout.part() + piece.at);
        EXPECT_EQ(piece.begin, std::ssize(seen[piece.tensor])) << "in order, without a gap";
        seen[piece.tensor].resize(piece.end);
      }
    }
    for (size_t i = 0; i < seen.size(); ++i) {
      EXPECT_EQ(std::ssize(seen[i]), layout.view(whole, i).numel()) << ranks << " ranks";
      EXPECT_EQ(layout.view(whole, i).storage_offset() % 32, 0);
    }
  }
}

std::vector<testing::TinyModel> frozen_methods(at::ScalarType dtype) {
  std::vector<testing::TinyModel> methods = testing::tiny_methods(dtype);
  std::erase_if(methods, &testing::TinyModel::full);
  return methods;
}

void expect_same_run(testing::TinyRun run, const std::string& what) {
  SCOPED_TRACE(what);
  const auto whole = testing::run_ranks(run);
  run.model.shard_base = true;
  const auto sharded = testing::run_ranks(run);
  for (int rank = 0; rank < run.world_size; ++rank) {
    ASSERT_EQ(whole[rank].error, "");
    ASSERT_EQ(sharded[rank].error, "");
    testing::expect_same_bits(whole[rank], sharded[rank]);
    EXPECT_EQ(whole[rank].expert_stats, sharded[rank].expert_stats);
    ASSERT_EQ(whole[rank].sink.steps.size(), sharded[rank].sink.steps.size());
    for (size_t s = 0; s < whole[rank].sink.steps.size(); ++s) {
      EXPECT_EQ(whole[rank].sink.steps[s].loss, sharded[rank].sink.steps[s].loss);
      EXPECT_EQ(whole[rank].sink.steps[s].grad_norm, sharded[rank].sink.steps[s].grad_norm);
    }
    ASSERT_EQ(whole[rank].sink.evals.size(), sharded[rank].sink.evals.size());
    for (size_t e = 0; e < whole[rank].sink.evals.size(); ++e) {
      EXPECT_EQ(whole[rank].sink.evals[e].loss, sharded[rank].sink.evals[e].loss);
      EXPECT_EQ(whole[rank].sink.evals[e].loss_dense, sharded[rank].sink.evals[e].loss_dense);
    }
  }
}

TEST(ShardBase, GivesTheBitsOfAWholeBase) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const testing::TinyModel& model : frozen_methods(dtype)) {
      for (const int ranks : {1, 2, 3, 4}) {
        testing::TinyRun run = testing::standard_run();
        run.model = model;
        run.world_size = ranks;
        run.options.eval_every = 3;
        expect_same_run(run, model.ffn + (model.experts > 0 ? " experts " : " dense ") +
                                 toString(dtype) + " on " + std::to_string(ranks) + " ranks");
      }
    }
  }
}

TEST(ShardBase, RanksWithoutRowsTakePart) {
  testing::TinyRun run = testing::standard_run();
  run.world_size = 4;
  run.options.batches.global_batch = 2;       // two ranks have none
  run.options.micro_batches.max_tokens = 16;  // and one has more micro-batches than another
  run.options.eval_every = 2;
  run.eval.resize(3);
  expect_same_run(run, "fewer rows than ranks");
}

TEST(ShardBase, ARankThatFailsDoesNotLeaveTheOthersInAGather) {
  testing::TinyRun run = testing::standard_run();
  run.world_size = 3;
  run.model.shard_base = true;
  int forwards = 0;
  run.on_phase = [&](int rank, Phase phase, Decoder& /*model*/) {
    if (rank == 1 && phase == Phase::backward && ++forwards == 3) {
      throw std::runtime_error("this rank is gone");
    }
  };
  const auto ranks = testing::run_ranks(run);
  EXPECT_EQ(ranks[1].error, "this rank is gone");
  for (const int other : {0, 2}) EXPECT_NE(ranks[other].error, "") << "rank " << other;
}

std::vector<testing::TinyModel> full_methods(at::ScalarType dtype) {
  std::vector<testing::TinyModel> methods = testing::tiny_methods(dtype);
  std::erase_if(methods, [](const testing::TinyModel& model) { return !model.full; });
  for (testing::TinyModel& model : methods) model.separated = true;  // no choice turns by rounding
  methods.push_back({.full = true, .dtype = dtype});
  return methods;
}

// A whole tensor from the parts of the ranks.
at::Tensor gathered(const std::vector<testing::RankOutcome>& ranks, const std::string& name) {
  std::vector<at::Tensor> parts;
  for (const auto& rank : ranks) parts.push_back(rank.parameters.at(name).flatten());
  return at::cat(parts);
}

// What whole weights are in the order of files, which is the order of parts.
std::map<std::string, at::Tensor> stored(const testing::RankOutcome& whole,
                                         testing::TinyModel model) {
  model.shard_base = false;
  std::map<std::string, at::Tensor> tensors;
  const auto same = testing::make_tiny_model(model);
  for (const Parameter& parameter : same->parameters()) {
    tensors[parameter.name] = parameter.to_original(whole.parameters.at(parameter.name));
  }
  return tensors;
}

void expect_near(const std::vector<testing::RankOutcome>& sharded,
                 const std::map<std::string, at::Tensor>& whole, double tolerance) {
  ASSERT_EQ(sharded.front().error, "");
  for (const auto& [name, tensor] : whole) {
    const double off = (gathered(sharded, name) - tensor.flatten()).norm().item<double>();
    EXPECT_LT(off, tolerance * (tensor.norm().item<double>() + 1.0)) << name;
  }
}

void expect_near(const std::vector<testing::RankOutcome>& sharded,
                 const testing::RankOutcome& whole, const testing::TinyModel& model,
                 double tolerance) {
  ASSERT_EQ(whole.error, "");
  expect_near(sharded, stored(whole, model), tolerance);
  ASSERT_EQ(sharded.front().sink.steps.size(), whole.sink.steps.size());
  for (size_t s = 0; s < whole.sink.steps.size(); ++s) {
    EXPECT_NEAR(sharded.front().sink.steps[s].loss, whole.sink.steps[s].loss, 10 * tolerance);
  }
}

TEST(ShardedTraining, EqualsWholeWeightsToRounding) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const testing::TinyModel& model : full_methods(dtype)) {
      for (const int ranks : {1, 2, 3, 4}) {
        SCOPED_TRACE(model.ffn + " experts " + std::to_string(model.experts) + " " +
                     toString(dtype) + " on " + std::to_string(ranks) + " ranks");
        testing::TinyRun run = testing::standard_run();
        run.model = model;
        run.world_size = ranks;
        run.options.learning_rate =
            1e-3;  // AdamW's first steps turn rounding of small gradients up
        run.options.eval_every = 3;
        const auto whole = testing::run_ranks(run);
        run.model.shard_base = true;
        const auto sharded = testing::run_ranks(run);
        expect_near(sharded, whole.front(), model, dtype == at::kFloat ? 1e-4 : 3e-3);
        EXPECT_NEAR(sharded.front().sink.evals.back().loss, whole.front().sink.evals.back().loss,
                    dtype == at::kFloat ? 1e-4 : 1e-2);
        EXPECT_EQ(sharded.front().expert_stats.empty(), whole.front().expert_stats.empty());
      }
    }
  }
}

TEST(ShardedTraining, ARankKeepsItsPartOnly) {
  testing::TinyRun run = testing::standard_run();
  run.model = {.full = true, .experts = 6, .shard_base = true};
  run.world_size = 3;
  const auto ranks = testing::run_ranks(run);
  int64_t all = 0;
  const auto whole = testing::make_tiny_model({.full = true});
  for (const Parameter& parameter : whole->parameters()) {
    all += parameter.tensor.numel();
  }
  for (const auto& rank : ranks) {
    int64_t own = 0;
    for (const auto& [name, tensor] : rank.parameters) own += tensor.numel();
    EXPECT_LT(own, 1.1 * static_cast<double>(all) / 3);
  }
}

testing::TinyRun resumed_run(const std::filesystem::path& folder) {
  testing::TinyRun run = testing::standard_run();
  run.model = {.full = true, .experts = 6, .separated = true};
  run.options.learning_rate = 1e-3;
  run.options.checkpoint.folder = folder;
  run.options.checkpoint.resume = true;
  return run;
}

TEST(ShardedTraining, ResumesShardedOrNotOnAnyRanks) {
  testing::TinyRun reference = resumed_run("");
  const auto whole = testing::run_ranks(reference);
  for (const int before : {1, 2, 3}) {
    for (const int after : {0, 1, 2, 4}) {  // 0: two ranks that each have all
      SCOPED_TRACE(std::to_string(before) + " ranks, then " + std::to_string(after));
      const emoe::testing::TempDir dir;
      testing::TinyRun run = resumed_run(dir / "checkpoints");
      run.world_size = before;
      run.model.shard_base = true;
      run.stop = [](int /*rank*/, int64_t edge) {
        return edge == 2 ? StopRequest::checkpoint_and_stop : StopRequest::none;
      };
      const auto first = testing::run_ranks(run);
      ASSERT_EQ(first.front().error, "");
      ASSERT_EQ(first.front().result.end, TrainEnd::preempted);
      run.stop = nullptr;
      run.world_size = after == 0 ? 2 : after;
      run.model.shard_base = after != 0;
      const auto second = testing::run_ranks(run);
      ASSERT_EQ(second.front().error, "");
      EXPECT_EQ(second.front().result.first_step, 3);
      if (after > 0) {
        expect_near(second, stored(whole.front(), reference.model), 1e-4);
      } else {
        EXPECT_LT(testing::distance(whole.front(), second.front(), reference.model), 1e-2);
      }
    }
  }
}

TEST(ShardedTraining, AResumedRunHasTheBitsOfAnUndisturbedOne) {
  const emoe::testing::TempDir dir;
  testing::TinyRun run = resumed_run(dir / "whole");
  run.world_size = 3;
  run.model.shard_base = true;
  const auto whole = testing::run_ranks(run);
  EXPECT_EQ(std::filesystem::path(whole.front().result.checkpoint), dir / "whole/step_00000006");
  run.options.checkpoint.folder = dir / "parts";
  run.stop = [](int rank, int64_t edge) {
    return rank == 1 && edge == 3 ? StopRequest::checkpoint_and_stop : StopRequest::none;
  };
  ASSERT_EQ(testing::run_ranks(run).front().error, "");
  run.stop = nullptr;
  const auto resumed = testing::run_ranks(run);
  for (int rank = 0; rank < 3; ++rank) testing::expect_same_bits(whole[rank], resumed[rank]);
}

TEST(ShardedTraining, WhatIsNoWholeCheckpointIsPassedOver) {
  const emoe::testing::TempDir dir;
  testing::TinyRun run = resumed_run(dir / "checkpoints");
  run.world_size = 2;
  run.model.shard_base = true;
  run.options.checkpoint.every_steps = 2;
  ASSERT_EQ(testing::run_ranks(run).front().error, "");
  const auto shard = [&](const char* step, int number) {
    return dir / "checkpoints" / step /
           ("weights-0000" + std::to_string(number) + "-of-00002.safetensors");
  };
  // A shard of another step, and one that is cut.
  std::filesystem::copy_file(shard("step_00000004", 2), shard("step_00000006", 2),
                             std::filesystem::copy_options::overwrite_existing);
  std::filesystem::resize_file(shard("step_00000004", 1), 100);
  const auto resumed = testing::run_ranks(run);
  ASSERT_EQ(resumed.front().error, "");
  EXPECT_EQ(resumed.front().result.first_step, 2);
}

TEST(ShardedTraining, ARankThatDiesBetweenTwoShardsCostsThatCheckpointOnly) {
  const emoe::testing::TempDir dir;
  testing::TinyRun run = resumed_run(dir / "whole");
  run.world_size = 2;
  run.model.shard_base = true;
  run.options.checkpoint.every_steps = 2;
  const auto whole = testing::run_ranks(run);
  run.options.checkpoint.folder = dir / "checkpoints";
  int checkpoints = 0;
  run.on_phase = [&](int rank, Phase phase, Decoder& /*model*/) {
    // Once to look for something to resume, and at the steps 2 and 4.
    if (rank == 1 && phase == Phase::checkpoint && ++checkpoints == 3) {
      throw std::runtime_error("this rank is gone");
    }
  };
  const auto failed = testing::run_ranks(run);
  EXPECT_EQ(failed[1].error, "this rank is gone");
  EXPECT_NE(failed[0].error, "");
  EXPECT_FALSE(std::filesystem::exists(dir / "checkpoints/step_00000004"));
  run.on_phase = nullptr;
  const auto resumed = testing::run_ranks(run);
  EXPECT_EQ(resumed[0].result.first_step, 2);
  for (int rank = 0; rank < 2; ++rank) testing::expect_same_bits(whole[rank], resumed[rank]);
}

TEST(ShardedTraining, AShardThatCannotBeWrittenNamesItsRank) {
  const emoe::testing::TempDir dir;
  testing::TinyRun run = resumed_run(dir / "checkpoints");
  run.world_size = 2;
  run.model.shard_base = true;
  run.options.checkpoint.every_steps = 4;
  run.on_work_done = [&](int rank) {
    // Rank 1 collects what it is going to write, and where it writes that there is a folder.
    const std::filesystem::path folder = dir / "checkpoints/step_00000004.tmp";
    if (rank != 1 || !std::filesystem::exists(folder)) return;
    std::filesystem::create_directory(folder / "weights-00002-of-00002.safetensors");
  };
  const auto ranks = testing::run_ranks(run);
  for (const auto& rank : ranks) EXPECT_EQ(rank.error, "") << "training goes on";
  const std::string told = ranks[0].sink.messages.empty() ? "" : ranks[0].sink.messages.front();
  EXPECT_NE(told.find("rank 1"), std::string::npos) << told;
  EXPECT_FALSE(std::filesystem::exists(dir / "checkpoints/step_00000004.tmp"));
  EXPECT_FALSE(std::filesystem::exists(dir / "checkpoints/step_00000004"));
  EXPECT_TRUE(std::filesystem::exists(dir / "checkpoints/step_00000006/manifest.json"));
}

// It is missed in the sum of the gradients of a layer.
TEST(ShardedTraining, ARankThatFailsDoesNotLeaveTheOthersInAReduceScatter) {
  testing::TinyRun run = testing::standard_run();
  run.model = {.full = true, .experts = 6, .shard_base = true};
  run.world_size = 3;
  int backwards = 0;
  run.on_phase = [&](int rank, Phase phase, Decoder& /*model*/) {
    if (rank == 1 && phase == Phase::backward && ++backwards == 3) {
      throw std::runtime_error("this rank is gone");
    }
  };
  const auto ranks = testing::run_ranks(run);
  EXPECT_EQ(ranks[1].error, "this rank is gone");
  for (const int other : {0, 2}) EXPECT_NE(ranks[other].error, "") << "rank " << other;
}

// The embedding fills the parts of 16 ranks, 96 elements each; the others have nothing of it.
TEST(ShardedTraining, RanksWithoutAPartOfAUnitTakePart) {
  constexpr int kRanks = 20;
  const UnitLayout embedding({{48, 32}}, kRanks);
  EXPECT_TRUE(embedding.pieces(kRanks - 1).empty());
  const emoe::testing::TempDir dir;
  testing::TinyRun run = resumed_run(dir / "checkpoints");
  run.options.batches.max_steps = 2;
  const auto whole = testing::run_ranks([&] {
    testing::TinyRun alone = run;
    alone.options.checkpoint.folder = "";
    return alone;
  }());
  run.world_size = kRanks;
  run.model.shard_base = true;
  const auto sharded = testing::run_ranks(run);
  expect_near(sharded, stored(whole.front(), run.model), 1e-4);
  run.world_size = 2;  // from the checkpoint of all of them
  const auto resumed = testing::run_ranks(run);
  ASSERT_EQ(resumed.front().error, "");
  EXPECT_EQ(resumed.front().result.first_step, 2);
  expect_near(resumed, stored(whole.front(), run.model), 1e-4);
}

TEST(ShardedTraining, WhatAnInterruptedWriteLeftIsReplaced) {
  const emoe::testing::TempDir dir;
  testing::TinyRun run = resumed_run(dir / "checkpoints");
  run.world_size = 2;
  run.model.shard_base = true;
  run.options.checkpoint.every_steps = 2;
  run.on_phase = [&](int rank, Phase phase, Decoder& /*model*/) {
    if (rank != 0 || phase != Phase::checkpoint) return;
    std::filesystem::create_directories(dir / "checkpoints/step_00000002.tmp/leftover");
  };
  const auto ranks = testing::run_ranks(run);
  EXPECT_EQ(ranks.front().error, "");
  EXPECT_FALSE(std::filesystem::exists(dir / "checkpoints/step_00000002/leftover"));
  EXPECT_TRUE(std::filesystem::exists(dir / "checkpoints/step_00000002/manifest.json"));
}

}  // namespace
}  // namespace emoe::worker
