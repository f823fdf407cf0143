#include "server/scheduler/job_queue.h"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>

#include "server/scheduler/decision.h"

namespace emoe::server {
namespace {

const SteadyTime kNow{std::chrono::hours(1000)};
const WallTime kToday{std::chrono::hours(500'000)};

std::string name_of(uint64_t number) {
  return "job-" + std::to_string(100'000 + number);
}

QueuedJob job(uint64_t number, int ranks, int priority, int64_t age) {
  QueuedJob job{.id = name_of(number),
                .needs = {.ranks = ranks},
                .priority = priority,
                .create_time = kToday - std::chrono::seconds(age),
                .not_before = {},
                .full_until = {}};
  if (number % 3 != 0) job.seconds = static_cast<double>(number % 50);
  return job;
}

std::vector<std::string> walked(const JobQueue& queue) {
  std::vector<std::string> ids;
  queue.walk([](const JobQueue::Lane&) { return true; },
             [&](const QueuedJob& job) {
               ids.push_back(job.id);
               return JobQueue::Walk::on;
             });
  return ids;
}

bool comes_before(const QueuedJob& a, const QueuedJob& b) {
  return place_of(a) < place_of(b);
}

// Against a sorted vector, over many chunks: jobs come anywhere and leave from anywhere.
TEST(JobQueue, IsASortedListWithSums) {
  JobQueue queue;
  std::vector<QueuedJob> expected;
  uint64_t random = 1;
  const auto next = [&](uint64_t below) {
    random = random * 6364136223846793005U + 1442695040888963407U;
    return (random >> 33U) % below;
  };
  for (uint64_t i = 0; i < 6000; ++i) {
    if (next(4) == 0 && !expected.empty()) {
      const auto gone = expected.begin() + static_cast<std::ptrdiff_t>(next(expected.size()));
      EXPECT_TRUE(queue.take(place_of(*gone)));
      EXPECT_FALSE(queue.take(place_of(*gone)));
      expected.erase(gone);
      continue;
    }
    const QueuedJob fresh = job(i, 1 + static_cast<int>(next(3)), static_cast<int>(next(3)),
                                static_cast<int64_t>(next(100)));
    queue.put(fresh);
    expected.insert(std::ranges::upper_bound(expected, fresh, comes_before), fresh);
  }
  ASSERT_EQ(queue.size(), expected.size());
  const std::vector<std::string> ids = walked(queue);
  ASSERT_EQ(ids.size(), expected.size());
  QueueAhead sum;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(ids[i], expected[i].id);
    const QueueAhead ahead = queue.ahead(place_of(expected[i]));
    ASSERT_EQ(ahead.jobs, static_cast<int64_t>(i));
    ASSERT_EQ(ahead.unknown, sum.unknown);
    ASSERT_NEAR(ahead.slot_seconds, sum.slot_seconds, 1e-6);
    const auto found = queue.find(place_of(expected[i]));
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->needs.ranks, expected[i].needs.ranks);
    EXPECT_EQ(found->seconds, expected[i].seconds);
    sum.unknown += expected[i].seconds ? 0 : 1;
    sum.slot_seconds += expected[i].seconds.value_or(0) * expected[i].needs.ranks;
  }
}

TEST(JobQueue, KeepsAllThatASchedulerAsks) {
  JobQueue queue;
  QueuedJob whole{
      .id = std::string(JobQueue::kLongestId, 'x'),
      .needs = {.ranks = 8, .gpus = true, .min_ranks = 2, .rows = 64, .group = 2, .most_ranks = 6},
      .priority = -3,
      .create_time = kToday,
      .not_before = kNow,
      .full_until = kNow + std::chrono::seconds(60),
      .seconds = 12.5};
  queue.put(whole);
  whole.needs.most_ranks = 4;
  queue.put(whole);  // in its place
  ASSERT_EQ(queue.size(), 1U);
  const auto kept = queue.find(place_of(whole));
  ASSERT_TRUE(kept.has_value());
  EXPECT_EQ(kept->id, whole.id);
  EXPECT_TRUE(kept->needs.gpus);
  EXPECT_EQ(kept->needs.min_ranks, 2);
  EXPECT_EQ(kept->needs.rows, 64);
  EXPECT_EQ(kept->needs.group, 2);
  EXPECT_EQ(kept->needs.most_ranks, 4);
  EXPECT_EQ(kept->not_before, kNow);
  EXPECT_EQ(kept->full_until, kNow + std::chrono::seconds(60));
  EXPECT_EQ(kept->seconds, 12.5);
  EXPECT_FALSE(queue.find({0, kToday, "other"}).has_value());
}

// A decision must not look at the queue behind the first job that waits, nor at those that cannot run.
TEST(JobQueue, ADecisionPassesOverWhatCannotRun) {
  JobQueue queue;
  constexpr uint64_t kMany = 50'000;
  for (uint64_t i = 0; i < kMany; ++i) queue.put(job(i, 9, 5, 1000));  // first in line, too wide
  queue.put(job(kMany, 1, 0, 10));
  queue.put(job(kMany + 1, 4, 0, 9));
  queue.put(job(kMany + 2, 1, 0, 8));
  const Pool pool{{.cpus = 4}, {}, ""};
  const Decision decision = decide(queue, {}, pool, kNow);
  ASSERT_EQ(decision.start.size(), 1U);
  EXPECT_EQ(decision.start[0].id, name_of(kMany));
  const auto reason = [&](const QueuedJob& job) {
    return decision.reasons.why(job, queue.ahead(place_of(job)).jobs + 1);
  };
  EXPECT_EQ(reason(job(7, 9, 5, 1000)), "can never run here: needs 9 slots, the service has 4");
  EXPECT_EQ(reason(job(kMany + 1, 4, 0, 9)),
            "waits for 1 of 4 slots (3 free); position 50002; job-150000 uses 1");
}

}  // namespace
}  // namespace emoe::server
