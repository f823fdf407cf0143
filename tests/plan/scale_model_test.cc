#include "plan/scale_model.h"

#include <gtest/gtest.h>

#include "tests/format/tiny_config.h"

namespace emoe {
namespace {

// 2 layers of 4 x 8 x 8 + 3 x 8 x 16 and two norms of 8; embedding, head and norm of 8.
DecoderConfig config() {
  return testing::tiny_config({.hidden = 8, .d_ff = 16, .layers = 2, .heads = 4, .vocab = 10});
}
constexpr double kLayer = 2 * 8 * 8 + 2 * 4 * 8 + 3 * 8 * 16 + 16;  // half as many key heads
constexpr double kOuter = 2 * 10 * 8 + 8;

ScaledRun lora(int ranks) {
  ScaledRun run{.ranks = ranks, .micro_batches = 3, .flops = 1200};
  run.step = {.tokens = 5, .lora_rank = 2, .lora_targets = {"q_proj"}};
  return run;
}

const Cluster kNode{.flops_per_second = 100,
                    .ranks_per_node = 4,
                    .inside = {.seconds = 1, .bytes_per_second = 1000},
                    .between = {.seconds = 10, .bytes_per_second = 10}};

TEST(ScaleModel, OneRankComputes) {
  const ScaledTime time = scaled_time(config(), lora(1), kNode);
  EXPECT_DOUBLE_EQ(time.compute, 12);
  EXPECT_DOUBLE_EQ(time.total(), 12);
}

TEST(ScaleModel, ASumSendsItsBytesTwice) {
  const double bytes = 4 * 2 * 2 * (8 + 8);  // of A and B in two layers
  const ScaledTime inside = scaled_time(config(), lora(4), kNode);
  EXPECT_DOUBLE_EQ(inside.compute, 3);
  EXPECT_DOUBLE_EQ(inside.exchange, 2 * (2 * 1 + 0.75 * bytes / 1000));
  EXPECT_DOUBLE_EQ(inside.gathers + inside.sums, 0);
  const ScaledTime between = scaled_time(config(), lora(8), kNode);
  EXPECT_DOUBLE_EQ(between.exchange, 2 * (3 * 10 + 0.875 * bytes / 10));
}

TEST(ScaleModel, SharedWeightsAreGatheredInBothDirections) {
  ScaledRun run = lora(2);
  run.step.shards = 2;
  const auto gather = [](double elements) { return 1 + elements * 4 / 2 / 1000; };
  const double all = 3 * (2 * 2 * gather(kLayer) + gather(kOuter));
  EXPECT_DOUBLE_EQ(scaled_time(config(), run, kNode).gathers, all);
  // A layer computes 0.5 s in each direction, which hides as much of each gather.
  Cluster overlapping = kNode;
  overlapping.overlaps = true;
  EXPECT_NEAR(scaled_time(config(), run, overlapping).gathers, all - 3 * (2 * 2 + 1) * 0.5, 1e-12);
  run.step.full = true;
  const ScaledTime full = scaled_time(config(), run, kNode);
  EXPECT_DOUBLE_EQ(full.exchange, 0) << "it leaves with the gathers";
  EXPECT_DOUBLE_EQ(full.gathers, 3 * (2 * 3 * gather(kLayer) + 2 * gather(kOuter)));
}

TEST(ScaleModel, RanksThatShareALayerAddItsParts) {
  ScaledRun run = lora(4);
  run.step.tensor = 2;
  const ScaledTime time = scaled_time(config(), run, kNode);
  EXPECT_DOUBLE_EQ(time.compute, 3);
  const double states = 5 * 8 * 4;
  EXPECT_DOUBLE_EQ(time.sums, 3 * 2 * 4 * 2 * (1 + states / 2 / 1000));
  const double bytes = 4 * 2 * 2 * (8 + 8);
  EXPECT_DOUBLE_EQ(time.exchange, 2 * 2 * (1 + bytes / 2 / 1000)) << "in both groups";
}

}  // namespace
}  // namespace emoe
