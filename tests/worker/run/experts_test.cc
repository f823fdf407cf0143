#include "worker/run/experts.h"

#include <gtest/gtest.h>

#include "tests/format/tiny_config.h"

namespace emoe::worker {
namespace {

BaseWeights small_base() {
  return BaseWeights::random(emoe::testing::tiny_config({.hidden = 16, .d_ff = 64}), 1);
}

TEST(MakeExperts, ConvertsTheLayersAskedFor) {
  const EmoeOptions emoe =
      make_experts({.routing = {8, 2}, .layers = {0, 2}, .partition = {.method = "random"}},
                   small_base(), "", 1);
  EXPECT_EQ(emoe.routing.num_experts, 8);
  EXPECT_EQ(emoe.routing.top_k, 2);
  ASSERT_EQ(emoe.partitions.size(), 2u);
  EXPECT_EQ(emoe.partitions.at(2).labels.size(), 64u);
  EXPECT_NE(emoe.partitions.at(0).labels, emoe.partitions.at(2).labels);
}

// The k-means of a large model takes hours: more than a rank may be without a sign of getting on.
TEST(MakeExperts, TellsOfEachPieceOfWork) {
  const BaseWeights base = small_base();
  const auto work_of = [&](const std::string& method, int32_t restarts) {
    int64_t work = 0;
    (void)make_experts({.routing = {8, 2},
                        .layers = {0, 2},
                        .partition = {.method = method, .restarts = restarts}},
                       base, "", 1, [&work] { ++work; });
    return work;
  };
  EXPECT_EQ(work_of("contiguous", 1), 2);            // layers
  EXPECT_GE(work_of("kmeans", 1), 2 * (1 + 8 + 2));  // and starts and, in a restart, iterations
  EXPECT_GE(work_of("kmeans", 4), work_of("kmeans", 1) + 2 * 3 * 2);
}

}  // namespace
}  // namespace emoe::worker
