#include "worker/run/micro_batch_choice.h"

#include <gtest/gtest.h>

#include "tests/worker/run/tiny_job.h"

namespace emoe::worker {
namespace {

constexpr int64_t kLarge = 80'000'000'000;
constexpr int64_t kSmall = 640'000'000;  // hardly more than the program's own

class MicroBatchChoice : public ::testing::Test {
 protected:
  [[nodiscard]] JobPlan chosen(int64_t device_bytes, const std::vector<std::string>& sets = {}) {
    JobPlan plan = job_.plan(sets);
    choose_micro_batch(plan, BaseWeights::open(job_.model()).value(), device_bytes);
    return plan;
  }
  [[nodiscard]] int64_t tokens(int64_t device_bytes, const std::vector<std::string>& sets = {}) {
    return chosen(device_bytes, sets).train()->options.micro_batches.max_tokens;
  }

  testing::TinyJob job_;
};

TEST_F(MicroBatchChoice, FollowsTheGpusMemoryWhereTheJobLeavesItOpen) {
  EXPECT_EQ(tokens(0), 4096) << "not known";
  EXPECT_EQ(tokens(kLarge), 32768);
  EXPECT_LT(tokens(kSmall), 4096);
  EXPECT_GE(tokens(kSmall, {"train.recompute=true"}), tokens(kSmall));
  EXPECT_EQ(tokens(1), 1024) << "nothing fits; the plan says so";
  EXPECT_EQ(tokens(kLarge, {"train.micro_batch_tokens=100"}), 100) << "the job says";
}

TEST_F(MicroBatchChoice, IsThatOfEvaluationsToo) {
  const JobPlan plan = chosen(
      kLarge,
      {"task=evaluate", "data={eval: " + job_.rows().string() + ", max_length: 64}", "train={}"});
  EXPECT_EQ(std::get<EvaluatePlan>(plan.task).micro_batches.max_tokens, 32768);
}

TEST_F(MicroBatchChoice, OneRankChangesNothing) {
  JobPlan plan = chosen(kLarge);
  agree_on_micro_batch(plan, *make_single_rank_group());
  EXPECT_EQ(plan.train()->options.micro_batches.max_tokens, 32768);
}

}  // namespace
}  // namespace emoe::worker
