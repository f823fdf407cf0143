#include "worker/eval/expert_counts.h"

#include <cmath>
#include <thread>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/worker/comm/loopback_group.h"

namespace emoe::worker {
namespace {

// Two padded segments of width 3 with 3 and 1 real tokens.
PackedBatch padded_batch() {
  PackedBatch batch;
  batch.ids.assign(6, 0);
  batch.segment_starts = {0, 3, 6};
  batch.segment_lengths = {3, 1};
  batch.row_keys = {0, 1};
  batch.real_tokens = 4;
  return batch;
}

// Tokens 0 … 5 choose {0,1}, {0,2}, {0,1}, {1,2}, {2,3}, {2,3}; the last two are padding.
ExpertChoice some_choice() {
  ExpertChoice choice;
  choice.layer = 5;
  const at::Tensor chosen =
      at::tensor(std::vector<int64_t>{0, 1, 0, 2, 0, 1, 1, 2, 2, 3, 2, 3}).view({6, 2});
  choice.selection.mask = at::zeros({6, 4}, at::kBool).scatter_(1, chosen, true);
  choice.selection.scores = at::full({6, 4}, -1.0F);
  choice.selection.scores.select(1, 0).fill_(0.5F);
  choice.selection.scores[3][2] = 0.25F;
  choice.selection.scores[4][3] = 9.0F;  // padding
  return choice;
}

ExpertCounter counter() {
  EmoeOptions emoe;
  emoe.routing = {.num_experts = 4, .top_k = 2};
  emoe.partitions[5] = {};
  return ExpertCounter(emoe);
}

TEST(ExpertCounter, CountsRealTokensOnlyAndStartsAnewWhenRead) {
  ExpertCounter counts = counter();
  const PackedBatch batch = padded_batch();
  for (const int times : {1, 2}) {
    for (int i = 0; i < times; ++i) counts.of(batch)(some_choice());
    const ExpertCounts taken = counts.take();
    const LayerCounts& layer = taken.layers().at(5);
    EXPECT_EQ(layer.tokens, 4 * times);
    EXPECT_EQ(layer.selections, (std::vector<int64_t>{3 * times, 3 * times, 2 * times, 0}));
    EXPECT_EQ(layer.positive, (std::vector<int64_t>{4 * times, 0, 1 * times, 0}));
  }
  EXPECT_EQ(counts.take().layers().at(5).selections, (std::vector<int64_t>{0, 0, 0, 0}));
}

TEST(ExpertCounter, WithoutPaddingEveryTokenCounts) {
  PackedBatch batch = padded_batch();
  batch.segment_lengths.clear();
  batch.real_tokens = 6;
  ExpertCounter counts = counter();
  counts.of(batch)(some_choice());
  const ExpertCounts taken = counts.take();
  EXPECT_EQ(taken.layers().at(5).tokens, 6);
  EXPECT_EQ(taken.layers().at(5).selections, (std::vector<int64_t>{3, 3, 4, 2}));
}

TEST(ExpertCounter, ADenseModelHasNothingToWatch) {
  ExpertCounter counts({});
  const PackedBatch batch = padded_batch();
  EXPECT_FALSE(counts.of(batch));
  EXPECT_TRUE(counts.take().empty());
}

TEST(ExpertCounts, LoadFigures) {
  LayerCounts counts;
  counts.selections = {3, 3, 2, 0};
  const LayerLoad load = load_of(counts);
  EXPECT_DOUBLE_EQ(load.max_over_mean, 1.5);
  EXPECT_DOUBLE_EQ(load.cv, std::sqrt((1 + 1 + 0 + 4) / 4.0) / 2.0);
  EXPECT_EQ(load.dead, 1);
  counts.selections = {0, 0};
  EXPECT_EQ(load_of(counts).cv, 0.0);
  EXPECT_EQ(load_of(counts).dead, 2);
}

TEST(ExpertCounts, SumsOverRanksAlsoWhereARankSawNothing) {
  auto comms = testing::make_loopback_group(3);
  std::vector<std::string> results(3);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        ExpertCounter counts = counter();
        const PackedBatch batch = padded_batch();
        if (rank != 1) counts.of(batch)(some_choice());
        results[rank] = counts.take().summed(*comms[rank]).to_json();
      });
    }
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  const auto json = nlohmann::json::parse(results[0]);
  const auto layer = json.at("layers").at(0);
  EXPECT_EQ(layer.at("layer"), 5);
  EXPECT_EQ(layer.at("tokens"), 8);
  EXPECT_EQ(layer.at("selections"), (std::vector<int64_t>{6, 6, 4, 0}));
  EXPECT_EQ(layer.at("activation_ratio"), (std::vector<double>{0.75, 0.75, 0.5, 0.0}));
  EXPECT_EQ(layer.at("dead_experts"), 1);
  EXPECT_EQ(ExpertCounts::from_json(results[0]).to_json(), results[0]);
}

TEST(ExpertCounts, RefusesOtherText) {
  EXPECT_THROW((void)ExpertCounts::from_json("{"), std::invalid_argument);
  EXPECT_THROW((void)ExpertCounts::from_json("{}"), std::invalid_argument);
  EXPECT_THROW((void)ExpertCounts::from_json(
                   R"({"layers":[{"layer":1,"tokens":1,"selections":[1],"positive":[]}]})"),
               std::invalid_argument);
}

}  // namespace
}  // namespace emoe::worker
