#include "server/scheduler/scheduler.h"

#include <gtest/gtest.h>

namespace emoe::server {
namespace {

using Ids = std::vector<std::string>;
using std::chrono::seconds;

const SteadyTime kNow{std::chrono::hours(1000)};
const WallTime kToday{std::chrono::hours(500'000)};

launcher::Resources slots(int count) {
  return {.cpus = count};
}

QueuedJob queued(const std::string& id, int ranks, int priority = 0, int age = 0) {
  return {id, slots(ranks), priority, kToday - seconds(age), std::nullopt};
}

Ids waiting_ids(const Schedule& plan) {
  Ids ids;
  for (const Waiting& waiting : plan.waiting) ids.push_back(waiting.id);
  return ids;
}

TEST(Scheduler, PriorityThenAgeThenId) {
  const Schedule plan = schedule({queued("young", 1, 0, 1), queued("old", 1, 0, 9),
                                  queued("urgent", 1, 5), queued("a-twin", 1, 0, 9)},
                                 {}, slots(4), kNow);
  EXPECT_EQ(plan.start, (Ids{"urgent", "a-twin", "old", "young"}));
  EXPECT_TRUE(plan.waiting.empty());
}

TEST(Scheduler, AllSlotsOfAJobOrNone) {
  const Schedule plan = schedule({queued("wide", 4)}, {{"x", slots(1)}}, slots(4), kNow);
  EXPECT_TRUE(plan.start.empty());
  ASSERT_EQ(plan.waiting.size(), 1U);
  EXPECT_EQ(plan.waiting[0].message, "waits for 1 of 4 slots (3 free); position 1; x uses 1");
}

TEST(Scheduler, NobodyOvertakesAJobThatWaitsForSlots) {
  const Schedule plan = schedule({queued("wide", 2, 0, 9), queued("narrow", 1, 0, 1)},
                                 {{"x", slots(1)}}, slots(2), kNow);
  EXPECT_TRUE(plan.start.empty());
  EXPECT_EQ(waiting_ids(plan), (Ids{"wide", "narrow"}));
  EXPECT_EQ(plan.waiting[1].position, 2);
  EXPECT_EQ(
      plan.waiting[1].message,
      "waits behind jobs that are first in line (needs 1 slot, 1 free); position 2; x uses 1");
}

TEST(Scheduler, JobsJustStartedCountAsUsers) {
  const Schedule plan =
      schedule({queued("first", 2, 0, 9), queued("second", 2)}, {}, slots(2), kNow);
  EXPECT_EQ(plan.start, Ids{"first"});
  EXPECT_EQ(plan.waiting[0].message, "waits for 2 of 2 slots (0 free); position 1; first uses 2");
}

TEST(Scheduler, ARetrysPauseKeepsItsPlaceAndHoldsUpNobody) {
  QueuedJob retry = queued("retry", 1, 9);
  retry.not_before = kNow + std::chrono::milliseconds(2500);
  const Schedule plan = schedule({retry, queued("other", 1)}, {}, slots(1), kNow);
  EXPECT_EQ(plan.start, Ids{"other"});
  ASSERT_EQ(waiting_ids(plan), Ids{"retry"});
  EXPECT_EQ(plan.waiting[0].message, "waits 3 s before the next attempt; position 1");
  EXPECT_EQ(schedule({retry}, {}, slots(1), kNow + seconds(3)).start, Ids{"retry"});
}

TEST(Scheduler, AJobThatCanNeverRunHoldsUpNobody) {
  const Schedule plan = schedule({queued("giant", 8, 9), queued("small", 1)}, {}, slots(2), kNow);
  EXPECT_EQ(plan.start, Ids{"small"});
  EXPECT_EQ(plan.waiting[0].message, "can never run here: needs 8 slots, the service has 2");
}

TEST(Scheduler, NeverGivesOutMoreThanThereIs) {
  // Fewer slots than before a restart: what runs may be more than the total.
  const Schedule plan = schedule({queued("a", 1)}, {{"x", slots(4)}}, slots(2), kNow);
  EXPECT_TRUE(plan.start.empty());
  for (int total = 0; total < 6; ++total) {
    const Schedule many = schedule({queued("a", 1), queued("b", 2), queued("c", 3)},
                                   {{"x", slots(1)}}, slots(total), kNow);
    int used = 1;
    for (const std::string& id : many.start) used += id == "a" ? 1 : id == "b" ? 2 : 3;
    EXPECT_LE(used, std::max(total, 1));
    EXPECT_EQ(many.start.size() + many.waiting.size(), 3U);
  }
}

TEST(Scheduler, EveryAmountMustFit) {
  using launcher::Resources;
  const Resources total{.nodes = 2, .gpus = 8, .cpus = 64, .memory = 1000};
  const auto message_of = [&](const Resources& needs, const Resources& held) {
    QueuedJob job = queued("job", 0);
    job.needs = needs;
    const Schedule plan = schedule({job}, {{"x", held}}, total, kNow);
    return plan.start.empty() ? plan.waiting[0].message : "starts";
  };
  EXPECT_EQ(message_of({.nodes = 1, .gpus = 4, .cpus = 4, .memory = 400}, {.gpus = 4}), "starts");
  EXPECT_EQ(message_of({.gpus = 4, .cpus = 4}, {.gpus = 6, .cpus = 6}),
            "waits for 2 of 4 GPUs (2 free); position 1; x uses 6");
  EXPECT_EQ(message_of({.cpus = 4, .memory = 400}, {.gpus = 8, .memory = 601}),
            "waits for 1 of 400 bytes (399 free); position 1; x uses 601");
  EXPECT_EQ(message_of({.nodes = 2}, {.nodes = 1}),
            "waits for 1 of 2 nodes (1 free); position 1; x uses 1");
  EXPECT_EQ(message_of({.gpus = 9}, {}), "can never run here: needs 9 GPUs, the service has 8");
}

}  // namespace
}  // namespace emoe::server
