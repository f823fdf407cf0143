// Training over real processes: run by mpirun at several world sizes. Every rank also trains alone
// and compares.
#include <cstdlib>

#include <gtest/gtest.h>

#include "tests/worker/train/tiny_run.h"
#include "worker/comm/mpi/mpi_group.h"
#include "worker/comm/mpi/mpi_session.h"

namespace emoe::worker {
namespace {

TEST(MpiTrainer, EqualsOneRank) {
  const auto host = make_mpi_group();
  testing::TinyRun run = testing::standard_run();
  run.model.lora = {.rank = 4, .alpha = 8.0, .dropout = 0.1, .targets = {"q_proj", "down_proj"}};
  run.model.experts = 6;
  run.options.eval_every = 3;
  const auto together = testing::run_rank(run, *host);
  ASSERT_EQ(together.error, "");
  const auto alone = std::move(testing::run_ranks(run)[0]);
  EXPECT_LT(testing::distance(alone, together, run.model), 2e-3);
  ASSERT_EQ(together.sink.steps.size(), alone.sink.steps.size());
  for (size_t s = 0; s < alone.sink.steps.size(); ++s) {
    EXPECT_NEAR(together.sink.steps[s].loss, alone.sink.steps[s].loss, 1e-5);
  }
  EXPECT_NEAR(together.sink.evals.back().loss, alone.sink.evals.back().loss, 1e-4);
  EXPECT_TRUE(together.expert_stats == alone.expert_stats);
  // One gradient all-reduce a step, one for each of three evaluations, one for the expert counts.
  EXPECT_EQ(host->counters()->completed, 6 + 3 + 1);
}

TEST(MpiTrainer, AllRanksHaveTheSameBits) {
  const auto host = make_mpi_group();
  testing::TinyRun run = testing::standard_run();
  run.model.full = true;
  const auto outcome = testing::run_rank(run, *host);
  ASSERT_EQ(outcome.error, "");
  for (const auto& [name, tensor] : outcome.parameters) {
    std::string bytes(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
    EXPECT_EQ(host->broadcast(bytes, 0), bytes) << name;
  }
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  emoe::worker::MpiSession session;
  const int result = RUN_ALL_TESTS();
  if (result != 0) std::_Exit(result);  // peers may be stuck waiting for this rank
  return 0;
}
