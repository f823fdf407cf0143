// Layers that keep their inputs alone and are computed again in the backward pass change no bit.
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/train/tiny_run.h"

namespace emoe::worker {
namespace {

using testing::RankOutcome;
using testing::TinyModel;
using testing::TinyRun;

struct Case {
  std::string name;
  TinyModel model;
  int world_size = 1;
  bool packing = true;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (TinyModel model : testing::tiny_methods(type)) {
      model.layers = 3;
      const std::string name = std::string(model.full ? "full" : "lora") +
                               (model.experts > 0 ? "_experts" : "") +
                               (model.ffn == "sparse" ? "_sparse_" : "_") + c10::toString(type);
      all.push_back({name, model});
    }
  }
  TinyModel model = testing::tiny_methods()[1];
  model.layers = 4;
  all.push_back({"padded", model, 1, /*packing=*/false});
  model.shard_base = true;
  all.push_back({"shared_base", model, 2});
  model.shard_base = false;
  model.tensor = 2;
  all.push_back({"shared_layers", model, 2});
  model = {.full = true, .layers = 4, .experts = 6, .shard_base = true, .extras = true};
  all.push_back({"shared_weights_of_full_tuning", model, 2});
  model.tensor = 2;
  all.push_back({"shared_layers_of_full_tuning", model, 4});
  return all;
}

class Recompute : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Methods, Recompute, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

TEST_P(Recompute, ChangesNoBit) {
  TinyRun run = testing::standard_run();
  run.model = GetParam().model;
  run.world_size = GetParam().world_size;
  run.options.micro_batches.packing = GetParam().packing;
  const std::vector<RankOutcome> kept = testing::run_ranks(run);
  run.model.recompute = true;
  const std::vector<RankOutcome> again = testing::run_ranks(run);
  for (size_t rank = 0; rank < kept.size(); ++rank) {
    ASSERT_EQ(kept[rank].error, "");
    ASSERT_EQ(again[rank].error, "");
    testing::expect_same_bits(kept[rank], again[rank]);
    EXPECT_EQ(kept[rank].expert_stats, again[rank].expert_stats);
  }
  ASSERT_EQ(kept[0].sink.steps.size(), again[0].sink.steps.size());
  for (size_t i = 0; i < kept[0].sink.steps.size(); ++i) {
    EXPECT_EQ(kept[0].sink.steps[i].loss, again[0].sink.steps[i].loss);
    EXPECT_EQ(kept[0].sink.steps[i].grad_norm, again[0].sink.steps[i].grad_norm);
  }
}

// Rows that begin alike are computed once, by another attention where no graph is made: the layer that is computed
// again must not differ from the one that was.
TEST(RecomputeOfSharedBeginnings, ChangesNoBit) {
  TinyRun run = testing::standard_run();
  run.model.layers = 3;
  run.options.micro_batches.share_prefixes = true;
  for (Row& row : run.train) row.ids.insert(row.ids.begin() + 1, {9, 8, 7, 6});
  for (Row& row : run.train) {
    for (TokenSpan& span : row.targets) {
      span.begin += 4;
      span.end += 4;
    }
  }
  const RankOutcome kept = testing::run_ranks(run)[0];
  run.model.recompute = true;
  const RankOutcome again = testing::run_ranks(run)[0];
  ASSERT_EQ(kept.error, "");
  ASSERT_EQ(again.error, "");
  testing::expect_same_bits(kept, again);
}

}  // namespace
}  // namespace emoe::worker
