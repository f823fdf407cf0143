#include "server/scheduler/scheduler.h"

#include <gtest/gtest.h>

namespace emoe::server {
namespace {

using Ids = std::vector<std::string>;
using std::chrono::seconds;

const SteadyTime kNow{std::chrono::hours(1000)};
const WallTime kToday{std::chrono::hours(500'000)};

launcher::Resources cpus(int count) {
  return {.cpus = count};
}
Pool slots(int count) {
  return {cpus(count), {}, ""};
}

QueuedJob queued(const std::string& id, int ranks, int priority = 0, int age = 0) {
  return {id, {.ranks = ranks}, priority, kToday - seconds(age), std::nullopt, std::nullopt};
}

Ids ids(const Schedule& plan) {
  Ids ids;
  for (const Start& start : plan.start) ids.push_back(start.id);
  return ids;
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
  EXPECT_EQ(ids(plan), (Ids{"urgent", "a-twin", "old", "young"}));
  EXPECT_TRUE(plan.waiting.empty());
}

TEST(Scheduler, AllSlotsOfAJobOrNone) {
  const Schedule plan = schedule({queued("wide", 4)}, {{"x", cpus(1), {}}}, slots(4), kNow);
  EXPECT_TRUE(plan.start.empty());
  ASSERT_EQ(plan.waiting.size(), 1U);
  EXPECT_EQ(plan.waiting[0].message, "waits for 1 of 4 slots (3 free); position 1; x uses 1");
}

TEST(Scheduler, NobodyOvertakesAJobThatWaitsForSlots) {
  const Schedule plan = schedule({queued("wide", 2, 0, 9), queued("narrow", 1, 0, 1)},
                                 {{"x", cpus(1), {}}}, slots(2), kNow);
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
  EXPECT_EQ(ids(plan), Ids{"first"});
  EXPECT_EQ(plan.waiting[0].message, "waits for 2 of 2 slots (0 free); position 1; first uses 2");
}

TEST(Scheduler, ARetrysPauseKeepsItsPlaceAndHoldsUpNobody) {
  QueuedJob retry = queued("retry", 1, 9);
  retry.not_before = kNow + std::chrono::milliseconds(2500);
  const Schedule plan = schedule({retry, queued("other", 1)}, {}, slots(1), kNow);
  EXPECT_EQ(ids(plan), Ids{"other"});
  ASSERT_EQ(waiting_ids(plan), Ids{"retry"});
  EXPECT_EQ(plan.waiting[0].message, "waits 3 s before the next attempt; position 1");
  EXPECT_EQ(ids(schedule({retry}, {}, slots(1), kNow + seconds(3))), Ids{"retry"});
}

TEST(Scheduler, AJobThatCanNeverRunHoldsUpNobody) {
  const Schedule plan = schedule({queued("giant", 8, 9), queued("small", 1)}, {}, slots(2), kNow);
  EXPECT_EQ(ids(plan), Ids{"small"});
  EXPECT_EQ(plan.waiting[0].message, "can never run here: needs 8 slots, the service has 2");
}

TEST(Scheduler, NeverGivesOutMoreThanThereIs) {
  // Fewer slots than before a restart: what runs may be more than the total.
  const Schedule plan = schedule({queued("a", 1)}, {{"x", cpus(4), {}}}, slots(2), kNow);
  EXPECT_TRUE(plan.start.empty());
  for (int total = 0; total < 6; ++total) {
    const Schedule many = schedule({queued("a", 1), queued("b", 2), queued("c", 3)},
                                   {{"x", cpus(1), {}}}, slots(total), kNow);
    int used = 1;
    for (const Start& start : many.start) used += start.ranks;
    EXPECT_LE(used, std::max(total, 1));
    EXPECT_EQ(many.start.size() + many.waiting.size(), 3U);
  }
}

// ---- jobs with min_ranks

QueuedJob elastic(const std::string& id, int ranks, int min_ranks, int64_t rows = 0) {
  QueuedJob job = queued(id, ranks);
  job.needs.min_ranks = min_ranks;
  job.needs.rows = rows;
  job.full_until = kNow + seconds(60);
  return job;
}

int ranks_of(const Schedule& plan) {
  return plan.start.empty() ? 0 : plan.start[0].ranks;
}

TEST(Scheduler, AnElasticJobWaitsForAllItsSlotsAndThenStartsWithFewer) {
  const QueuedJob job = elastic("e", 4, 2);
  EXPECT_EQ(ranks_of(schedule({job}, {}, slots(4), kNow)), 4);
  const Schedule waits = schedule({job}, {{"x", cpus(1), {}}}, slots(4), kNow);
  EXPECT_EQ(ranks_of(waits), 0);
  EXPECT_EQ(waits.waiting[0].message,
            "waits for 1 of 4 slots (3 free); starts with 2 or more in 60 s; position 1; x uses 1");
  EXPECT_EQ(ranks_of(schedule({job}, {{"x", cpus(1), {}}}, slots(4), kNow + seconds(60))), 3);
  const Schedule too_few = schedule({job}, {{"x", cpus(3), {}}}, slots(4), kNow + seconds(60));
  EXPECT_EQ(too_few.waiting[0].message,
            "waits for 3 of 4 slots (1 free); starts with 2 or more as soon as they are free; "
            "position 1; x uses 3");
}

TEST(Scheduler, AnElasticJobDoesNotWaitForSlotsThatAreNotThere) {
  EXPECT_EQ(ranks_of(schedule({elastic("e", 4, 2)}, {}, slots(3), kNow)), 3);
  EXPECT_EQ(ranks_of(schedule({elastic("e", 4, 2)}, {}, slots(2), kNow)), 2);
  const Schedule never = schedule({elastic("e", 4, 2), queued("other", 1)}, {}, slots(1), kNow);
  EXPECT_EQ(ids(never), Ids{"other"});
  EXPECT_EQ(never.waiting[0].message, "can never run here: needs 2 slots, the service has 1");
}

TEST(Scheduler, OfFewerRanksOnlyThoseThatShortenTheStep) {
  const auto with = [](int ranks, int min_ranks, int64_t rows, int free) {
    return ranks_of(schedule({elastic("e", ranks, min_ranks, rows)}, {}, slots(free), kNow));
  };
  EXPECT_EQ(with(8, 1, 8, 7), 4);    // seven ranks would have a second row too
  EXPECT_EQ(with(8, 6, 8, 7), 6);    // no fewer than the job says
  EXPECT_EQ(with(8, 1, 8, 3), 3);    // three rows at most, as with three
  EXPECT_EQ(with(8, 1, 128, 7), 7);  // 19 rows at most; six ranks would have 22
  EXPECT_EQ(with(7, 1, 8, 7), 7);    // what the job asks for is its own affair
}

TEST(Scheduler, RanksThatShareLayersComeInWholeGroups) {
  const auto job = [](int ranks, int min_ranks, int64_t rows, int group) {
    QueuedJob split = elastic("e", ranks, min_ranks, rows);
    split.needs.group = group;
    return split;
  };
  const auto with = [&](int ranks, int min_ranks, int64_t rows, int group, int free) {
    return ranks_of(schedule({job(ranks, min_ranks, rows, group)}, {}, slots(free), kNow));
  };
  EXPECT_EQ(with(8, 2, 0, 2, 7), 6);
  EXPECT_EQ(with(8, 4, 0, 4, 7), 4);
  EXPECT_EQ(with(8, 2, 4, 2, 7), 4);  // three groups would have a second row too
  EXPECT_EQ(with(8, 2, 4, 2, 8), 8);
  EXPECT_EQ(with(12, 3, 128, 3, 11), 9);
  const auto next = [&](int ranks, int min_ranks, int group, std::optional<int> room) {
    return fewer_ranks(job(ranks, min_ranks, 0, group).needs, ranks, room).value_or(0);
  };
  EXPECT_EQ(next(4, 2, 2, 3), 2);
  EXPECT_EQ(next(4, 2, 2, std::nullopt), 2);
  EXPECT_EQ(next(16, 4, 4, std::nullopt), 12);
  EXPECT_EQ(next(2, 2, 2, 1), 0) << "no fewer than one group";
}

TEST(Scheduler, WhereTheEngineHasNoRoomFewerRanksAreTried) {
  const auto next = [](int ranks, int min_ranks, int64_t rows, int now, std::optional<int> room) {
    return fewer_ranks(elastic("e", ranks, min_ranks, rows).needs, now, room).value_or(0);
  };
  EXPECT_EQ(next(2, 1, 8, 2, 1), 1);
  EXPECT_EQ(next(2, 0, 8, 2, 1), 0) << "all or none";
  EXPECT_EQ(next(2, 1, 8, 1, 0), 0) << "no fewer than the job says";
  EXPECT_EQ(next(64, 1, 4096, 64, 56), 56);
  EXPECT_EQ(next(64, 1, 128, 64, 56), 43) << "only so many as shorten the step";
  EXPECT_EQ(next(64, 60, 128, 64, 56), 60);
  EXPECT_EQ(next(64, 1, 0, 64, std::nullopt), 48);
  EXPECT_EQ(next(64, 1, 0, 48, 60), 36) << "there was room for more, and it did not start";
  EXPECT_EQ(next(3, 1, 0, 2, std::nullopt), 1);
  QueuedJob again = elastic("e", 4, 1);
  again.needs.most_ranks = 3;
  EXPECT_EQ(ranks_of(schedule({again}, {}, slots(100), kNow)), 3) << "at once";
}

TEST(Scheduler, AnElasticJobDoesNotOvertake) {
  QueuedJob wide = queued("wide", 4, 0, 9);
  QueuedJob job = elastic("e", 4, 1);
  job.full_until = kNow;
  const Schedule plan = schedule({wide, job}, {{"x", cpus(2), {}}}, slots(4), kNow);
  EXPECT_TRUE(plan.start.empty());
  EXPECT_EQ(waiting_ids(plan), (Ids{"wide", "e"}));
  // Nor is it overtaken while it waits for all its slots.
  const Schedule patient =
      schedule({elastic("e", 4, 1), queued("narrow", 1, -1)}, {{"x", cpus(2), {}}}, slots(4), kNow);
  EXPECT_TRUE(patient.start.empty());
}

// ---- pools of hosts

using Placement = std::vector<launcher::HostRanks>;

Placement placed(const QueuedJob& job, const std::vector<RunningJob>& running, const Pool& pool) {
  const Schedule plan = schedule({job}, running, pool, kNow);
  return plan.start.empty() ? Placement{} : plan.start[0].placement;
}

TEST(Scheduler, RanksGoToTheHostTheyFillBestElseToTheEmptiest) {
  const Pool pool{{}, {{"a", 4, 0}, {"b", 2, 0}, {"c", 3, 0}}, ""};
  EXPECT_EQ(placed(queued("j", 2), {}, pool), (Placement{{"b", 2, {}}}));
  EXPECT_EQ(placed(queued("j", 3), {}, pool), (Placement{{"c", 3, {}}}));
  EXPECT_EQ(placed(queued("j", 6), {}, pool), (Placement{{"a", 4, {}}, {"b", 2, {}}}));
  EXPECT_EQ(placed(queued("j", 9), {}, pool),
            (Placement{{"a", 4, {}}, {"c", 3, {}}, {"b", 2, {}}}));
  EXPECT_EQ(placed(queued("j", 3), {{"x", cpus(3), {{"c", 3, {}}}}}, pool),
            (Placement{{"a", 3, {}}}));
  EXPECT_TRUE(placed(queued("j", 7), {{"x", cpus(3), {{"c", 3, {}}}}}, pool).empty());
}

TEST(Scheduler, RanksThatWantGpusGetThemByNumber) {
  const Pool pool{{}, {{"a", 8, 2}, {"b", 8, 4}}, ""};
  QueuedJob job = queued("j", 2);
  job.needs.gpus = true;
  EXPECT_EQ(placed(job, {}, pool), (Placement{{"a", 2, {0, 1}}}));
  EXPECT_EQ(placed(job, {{"x", {.gpus = 1, .cpus = 1}, {{"a", 1, {0}}}}}, pool),
            (Placement{{"b", 2, {0, 1}}}));
  EXPECT_EQ(placed(job, {{"x", {.gpus = 2, .cpus = 2}, {{"b", 2, {0, 2}}}}}, pool),
            (Placement{{"a", 2, {0, 1}}}));
  job.needs.ranks = 5;
  EXPECT_EQ(placed(job, {{"x", {.gpus = 1, .cpus = 1}, {{"b", 1, {1}}}}}, pool),
            (Placement{{"b", 3, {0, 2, 3}}, {"a", 2, {0, 1}}}));
  job.needs.ranks = 7;
  EXPECT_EQ(schedule({job}, {}, pool, kNow).waiting[0].message,
            "can never run here: needs 7 GPUs, the service has 6");
}

TEST(Scheduler, AHostOutOfServiceIsMissedAloud) {
  const Pool pool{{}, {{"a", 2, 0}, {"b", 0, 0}}, "; host b gets no ranks for 9 s: away"};
  const Schedule plan = schedule({queued("wide", 4, 1), queued("narrow", 2)},
                                 {{"x", cpus(2), {{"b", 2, {}}}}}, pool, kNow);
  EXPECT_EQ(ids(plan), Ids{"narrow"});
  EXPECT_EQ(plan.waiting[0].message,
            "cannot run now: needs 4 slots, the service has 2; host b gets no ranks for 9 s: away");
}

RunningJob running(const std::string& id, int ranks, int priority, bool displaceable = true) {
  return {.id = id,
          .holds = cpus(ranks),
          .placement = {},
          .priority = priority,
          .displaceable = displaceable};
}

TEST(Preemption, TheLowestAndYoungestMakeRoomForTheFirstInLine) {
  const auto plan = [](const QueuedJob& job, std::vector<RunningJob> users) {
    return schedule({job}, users, slots(4), kNow).displace;
  };
  const std::vector<RunningJob> users{running("old", 1, 1), running("young", 1, 1),
                                      running("high", 2, 5)};
  EXPECT_EQ(plan(queued("x", 1, 3), users), Ids{"young"});
  EXPECT_EQ(plan(queued("x", 2, 3), users), (Ids{"young", "old"}));
  EXPECT_EQ(plan(queued("x", 4, 9), users), (Ids{"young", "old", "high"}));
  // All that may go are not enough: nobody is disturbed for nothing.
  EXPECT_EQ(plan(queued("x", 3, 3), users), Ids{});
  EXPECT_EQ(plan(queued("x", 1, 1), users), Ids{}) << "equals do not displace one another";
}

TEST(Preemption, WhatLeavesAlreadyCountsAndWhatMayNotGoStays) {
  RunningJob leaving = running("leaving", 2, 0, false);
  leaving.leaving = true;
  const auto plan = [&](int ranks) {
    return schedule({queued("x", ranks, 9)},
                    {leaving, running("new", 1, 0, false), running("b", 1, 0)}, slots(4), kNow)
        .displace;
  };
  EXPECT_EQ(plan(2), Ids{});
  EXPECT_EQ(plan(3), Ids{"b"});
  EXPECT_EQ(plan(4), Ids{}) << "one has just begun";
}

TEST(Preemption, OnlyForTheFirstInLineThatCanRun) {
  const Schedule plan = schedule({queued("giant", 9, 9), queued("a", 1, 5), queued("b", 4, 4)},
                                 {running("low", 4, 0)}, slots(4), kNow);
  EXPECT_EQ(plan.displace, Ids{"low"}) << "for a; b waits behind it";
  EXPECT_EQ(schedule({queued("a", 1, 5)}, {running("low", 3, 0)}, slots(4), kNow).displace, Ids{});
}

}  // namespace
}  // namespace emoe::server
