#include <thread>

#include <gtest/gtest.h>

#include "tests/worker/comm/loopback_group.h"
#include "worker/run/job_error.h"
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

}  // namespace
}  // namespace emoe::worker
