#include "worker/run/rank_environment.h"

#include <string>

#include <gtest/gtest.h>

#include "worker/run/job_error.h"

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
  environment.thread_limit = 3;  // whoever says what
  EXPECT_EQ(threads_of_rank(environment, 7, 16), 3);
  EXPECT_EQ(threads_of_rank(environment, 0, 16), 2);
  environment.threads = 0;
  EXPECT_EQ(threads_of_rank(environment, 0, 16), 3);
}

TEST(ThreadsOfRank, ThousandsAreRefusedWithTheNameOfTheKey) {
  RankEnvironment environment;
  environment.threads = 64;
  EXPECT_EQ(threads_of_rank(environment, 0, 2), 64);
  environment.threads = 65;
  EXPECT_EQ(threads_of_rank(environment, 0, 17), 65);
  const auto text_of_error = [&](int wanted) {
    try {
      (void)threads_of_rank(environment, wanted, 2);
    } catch (const JobError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(text_of_error(0), "OMP_NUM_THREADS: 65 threads on 2 usable cores; at most 64");
  EXPECT_EQ(text_of_error(4096),
            "resources.threads_per_rank: 4096 threads on 2 usable cores; at most 64");
}

}  // namespace
}  // namespace emoe::worker
