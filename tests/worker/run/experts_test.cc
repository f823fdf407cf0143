#include "worker/run/experts.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "tests/format/tiny_config.h"
#include "tests/support/temp_dir.h"
#include "worker/run/job_error.h"

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

// What is stopped leaves the layers before it in the cache, and nothing of its own.
TEST(MakeExperts, IsStoppedBetweenIterationsAndGoesOnFromTheCache) {
  const BaseWeights base = small_base();
  const JobPlan::Emoe plan{
      .routing = {8, 2}, .layers = {0, 2}, .partition = {.method = "kmeans", .restarts = 2}};
  testing::TempDir folder;
  const auto cached = [&folder] {
    const auto files = std::filesystem::directory_iterator(folder.path());
    return std::distance(begin(files), end(files));
  };
  int64_t work = 0;
  const auto count_work = [&work] { ++work; };
  bool first_done = false;
  try {
    (void)make_experts(plan, base, folder.path(), 1, count_work, [&] {
      first_done = first_done || cached() == 1;
      return first_done && work % 3 == 0;  // somewhere in the second layer
    });
    ADD_FAILURE() << "not stopped";
  } catch (const JobError& error) {
    EXPECT_EQ(error.code(), ExitCode::preempted);
    EXPECT_NE(std::string(error.what()).find("layer 2: stopped as asked"), std::string::npos);
  }
  EXPECT_EQ(cached(), 1);
  const EmoeOptions whole = make_experts(plan, base, folder.path(), 1, count_work);
  EXPECT_EQ(cached(), 2);
  work = 0;  // and now nothing is clustered any more: a sign of life for each layer is all
  const EmoeOptions again = make_experts(plan, base, folder.path(), 1, count_work);
  EXPECT_EQ(work, 2);
  for (const int64_t layer : plan.layers) {
    EXPECT_EQ(again.partitions.at(layer).labels, whole.partitions.at(layer).labels);
    EXPECT_EQ(again.partitions.at(layer).inertia, whole.partitions.at(layer).inertia);
  }
}

}  // namespace
}  // namespace emoe::worker
