#include "worker/run/rank_environment.h"

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

TEST(ThreadsOfRank, TheJobComesFirstThenTheLauncherThenTheHost) {
  RankEnvironment environment;
  environment.world_size = 8;
  environment.local_size = 4;  // on each of two hosts
  EXPECT_EQ(threads_of_rank(environment, 0, 16), 4);
  EXPECT_EQ(threads_of_rank(environment, 0, 3), 1);
  environment.threads = 2;
  EXPECT_EQ(threads_of_rank(environment, 0, 16), 2);
  EXPECT_EQ(threads_of_rank(environment, 7, 16), 7);
}

}  // namespace
}  // namespace emoe::worker
