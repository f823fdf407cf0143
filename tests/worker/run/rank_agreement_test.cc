#include <thread>

#include <gtest/gtest.h>

#include "tests/worker/comm/loopback_group.h"
#include "worker/run/job_error.h"
#include "worker/run/micro_batch_choice.h"
#include "worker/run/rank_groups.h"

namespace emoe::worker {
namespace {

// What each rank says of its own preparation; "" is agreement.
std::vector<std::string> outcomes(const std::vector<Preparation>& preparations) {
  auto comms = testing::make_loopback_group(static_cast<int>(preparations.size()));
  std::vector<std::string> said(preparations.size());
  {
    std::vector<std::jthread> threads;
    for (size_t rank = 0; rank < preparations.size(); ++rank) {
      threads.emplace_back([&, rank] {
        try {
          check_same_preparation(preparations[rank], "host-" + std::to_string(rank), *comms[rank]);
        } catch (const JobError& error) {
          EXPECT_EQ(error.code(), ExitCode::data);
          said[rank] = error.what();
        }
      });
    }
  }
  return said;
}

TEST(RankAgreement, EqualPreparationsPass) {
  const Preparation same{{"base model", "abc"}, {"adapter", ""}};
  EXPECT_EQ(outcomes({same}), std::vector<std::string>(1));
  EXPECT_EQ(outcomes({same, same}), std::vector<std::string>(2));
}

TEST(RankAgreement, AnotherOneIsNamedWithItsHostOnEveryRank) {
  const Preparation first{{"base model", "abc"}, {"data.train", "1"}, {"adapter", ""}};
  Preparation other = first;
  other[1].second = "2";
  const auto said = outcomes({first, other});
  EXPECT_EQ(said[0],
            "rank 1 on host host-1 has another data.train than rank 0 on host host-0: all hosts "
            "must see the same files");
  EXPECT_EQ(said[1], said[0]);
  other = first;
  other[2].second = "some";  // none here, one there
  EXPECT_NE(outcomes({first, first, other})[0].find("rank 2 on host host-2 has another adapter"),
            std::string::npos);
}

// GPUs of two kinds hold different numbers of tokens: all ranks cut the rows as the smallest one can.
TEST(RankAgreement, OfGpusOfSeveralKindsTheSmallestDecides) {
  const std::vector<int64_t> own = {8192, 2048, 32768};
  auto comms = testing::make_loopback_group(static_cast<int>(own.size()));
  std::vector<int64_t> agreed(own.size());
  {
    std::vector<std::jthread> threads;
    for (size_t rank = 0; rank < own.size(); ++rank) {
      threads.emplace_back([&, rank] {
        JobPlan plan;
        plan.longest_row = 512;
        plan.task = EvaluatePlan{.micro_batches = {.max_tokens = own[rank]}};
        agree_on_micro_batch(plan, *comms[rank]);
        agreed[rank] = std::get<EvaluatePlan>(plan.task).micro_batches.max_tokens;
      });
    }
  }
  EXPECT_EQ(agreed, std::vector<int64_t>(3, 2048));
}

}  // namespace
}  // namespace emoe::worker
