#include "server/session/attempt_monitor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/support.h"
#include "tests/support/fake_clock.h"

namespace emoe::server {
namespace {

using std::chrono::seconds;

class AttemptMonitorTest : public ::testing::Test {
 protected:
  AttemptMonitor make(int ranks, bool adopted = false) {
    AttemptMonitor::Config config;
    config.ranks = ranks;
    config.join_timeout = seconds(60);
    config.session_timeout = seconds(10);
    config.progress_timeout = seconds(100);
    return {config, clock_.steady_now(), adopted};
  }
  static v1::RankInfo info(int rank, int world_size) {
    return make_rank_info(rank, world_size, "n" + std::to_string(rank));
  }
  void join_all(AttemptMonitor& monitor, int ranks) {
    for (int rank = 0; rank < ranks; ++rank) {
      ASSERT_TRUE(monitor.join(info(rank, ranks), now()).ok());
    }
  }
  SteadyTime now() { return clock_.steady_now(); }
  // Every rank talks each second for `duration`, saying the same.
  void talk(AttemptMonitor& monitor, const std::vector<v1::RankHeartbeat>& beats,
            seconds duration) {
    for (seconds done{0}; done < duration; done += seconds(1)) {
      for (size_t rank = 0; rank < beats.size(); ++rank) {
        monitor.heartbeat(static_cast<int>(rank), beats[rank], now());
      }
      clock_.advance(seconds(1));
    }
  }
  testing::FakeClock clock_;
};

TEST_F(AttemptMonitorTest, ReportsRanksThatDoNotJoin) {
  AttemptMonitor monitor = make(3);
  ASSERT_TRUE(monitor.join(info(1, 3), now()).ok());
  EXPECT_FALSE(monitor.all_joined());
  for (int i = 0; i < 59; ++i) {
    monitor.heartbeat(1, {}, now());
    clock_.advance(seconds(1));
  }
  EXPECT_FALSE(monitor.check(now()).has_value());
  clock_.advance(seconds(1));
  const auto alarm = monitor.check(now());
  ASSERT_TRUE(alarm.has_value());
  EXPECT_EQ(alarm->finding, Finding::join_timeout);
  EXPECT_EQ(alarm->message, "2 of 3 ranks did not join within 60 s (ranks 0, 2)");
}

TEST_F(AttemptMonitorTest, AnAdoptedAttemptLosesRanksInsteadOfMissingThem) {
  AttemptMonitor monitor = make(1, true);
  clock_.advance(seconds(60));
  EXPECT_EQ(monitor.check(now())->finding, Finding::session_lost);
}

TEST_F(AttemptMonitorTest, AnotherWorldSizeIsTheEnd) {
  for (const auto& [rank, world] : {std::pair(0, 1), {2, 2}, {-1, 2}, {0, 4}}) {
    AttemptMonitor monitor = make(2);
    EXPECT_EQ(monitor.join(info(rank, world), now()).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(monitor.check(now())->finding, Finding::world_size_mismatch);
  }
}

TEST_F(AttemptMonitorTest, NamesTheSilentRank) {
  AttemptMonitor monitor = make(2);
  join_all(monitor, 2);
  EXPECT_TRUE(monitor.all_joined());
  monitor.heartbeat(1, make_heartbeat(37, "backward", 0, 0), now());
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(monitor.check(now()).has_value());
    clock_.advance(seconds(1));
    monitor.heartbeat(0, make_heartbeat(37 + i, "comm", 0, 0), now());
  }
  const auto alarm = monitor.check(now());
  ASSERT_TRUE(alarm.has_value());
  EXPECT_EQ(alarm->finding, Finding::session_lost);
  EXPECT_EQ(alarm->message, "rank 1 on host n1 in step 37, phase backward: silent for 10 s");
  ASSERT_TRUE(monitor.join(info(1, 2), now()).ok());  // it came back in time
  EXPECT_FALSE(monitor.check(now()).has_value());
}

TEST_F(AttemptMonitorTest, ARankThatEndedMayBeSilent) {
  AttemptMonitor monitor = make(1);
  ASSERT_TRUE(monitor.join(info(0, 1), now()).ok());
  monitor.ended(0);
  clock_.advance(seconds(50));
  EXPECT_FALSE(monitor.check(now()).has_value());
  clock_.advance(seconds(50));  // … but its processes must go some day
  EXPECT_EQ(monitor.check(now())->finding, Finding::hang);
}

TEST_F(AttemptMonitorTest, AStandstillNamesTheRankThatLags) {
  AttemptMonitor monitor = make(3);
  join_all(monitor, 3);
  const auto waiting = make_heartbeat(12, "comm", 42, 41, "all_reduce");
  const auto lagging = make_heartbeat(12, "forward", 41, 41);
  talk(monitor, {waiting, lagging, waiting}, seconds(100));
  EXPECT_EQ(monitor.check(now() - seconds(1)), std::nullopt);
  const auto alarm = monitor.check(now());
  ASSERT_TRUE(alarm.has_value());
  EXPECT_EQ(alarm->finding, Finding::hang);
  EXPECT_EQ(alarm->message,
            "no rank got on for 100 s: rank 1 on host n1 in step 12, phase forward lags at "
            "collective 41, the others are at 42");
}

TEST_F(AttemptMonitorTest, TheRankInsideTheCollectiveIsNamedWhenAllHaveStartedIt) {
  AttemptMonitor monitor = make(2);
  join_all(monitor, 2);
  const auto done = make_heartbeat(12, "optimizer", 42, 42);
  const auto stuck = make_heartbeat(12, "comm", 42, 41, "all_reduce");
  talk(monitor, {done, stuck}, seconds(100));
  EXPECT_EQ(monitor.check(now())->message,
            "no rank got on for 100 s: rank 1 on host n1 in step 12, phase comm lags at "
            "collective 42 (all_reduce), the others are at 42");
}

TEST_F(AttemptMonitorTest, OfTwoInsideTheSameCollectiveTheSilentOneIsNamed) {
  for (const int silent : {0, 1}) {
    AttemptMonitor monitor = make(2);
    const auto inside = make_heartbeat(12, "comm", 42, 41, "all_reduce");
    join_all(monitor, 2);
    for (int rank = 0; rank < 2; ++rank) monitor.heartbeat(rank, inside, now());
    clock_.advance(seconds(100));
    monitor.heartbeat(1 - silent, inside, now());
    EXPECT_NE(monitor.check(now())->message.find("rank " + std::to_string(silent) + " on host"),
              std::string::npos);
  }
}

TEST_F(AttemptMonitorTest, AnyProgressIsProgress) {
  AttemptMonitor monitor = make(2);
  join_all(monitor, 2);
  const auto waiting = make_heartbeat(1, "comm", 2, 1, "all_reduce");
  for (int64_t i = 0; i < 30; ++i) {
    talk(monitor, {waiting, make_heartbeat(1, "forward", 1, i)}, seconds(9));
    EXPECT_FALSE(monitor.check(now()).has_value());
  }
  talk(monitor, {waiting, make_heartbeat(1, "forward", 1, 30)}, seconds(99));
  monitor.reported(1, now());
  EXPECT_FALSE(monitor.check(now()).has_value());
}

TEST_F(AttemptMonitorTest, ALongPhaseIsNoHangWhileWorkGetsDone) {
  for (const char* phase : {"prepare", "forward", "eval", "checkpoint", "export"}) {
    AttemptMonitor monitor = make(2);
    join_all(monitor, 2);
    v1::RankHeartbeat working = make_heartbeat(12, phase, 42, 42);
    const auto waiting = make_heartbeat(12, "comm", 43, 42, "barrier");
    for (int i = 0; i < 10; ++i) {
      working.set_work_done(working.work_done() + 1);
      talk(monitor, {working, waiting}, seconds(99));
      EXPECT_FALSE(monitor.check(now()).has_value()) << phase;
    }
    talk(monitor, {working, waiting}, seconds(2));
    const auto alarm = monitor.check(now());
    ASSERT_TRUE(alarm.has_value()) << phase;
    EXPECT_EQ(alarm->finding, Finding::hang);
    EXPECT_THAT(alarm->message, ::testing::HasSubstr("rank 0 on host n0 in step 12"));
  }
}

TEST_F(AttemptMonitorTest, WorkThatIsDoneDoesNotHideTheRankThatStopped) {
  AttemptMonitor monitor = make(2);
  join_all(monitor, 2);
  v1::RankHeartbeat waiting = make_heartbeat(12, "comm", 42, 41, "all_reduce");
  v1::RankHeartbeat stopped = make_heartbeat(12, "backward", 41, 41);
  stopped.set_work_done(7);
  waiting.set_work_done(8);  // its own share is done, and from here on it waits
  talk(monitor, {waiting, stopped}, seconds(100));
  EXPECT_EQ(monitor.check(now())->message,
            "no rank got on for 100 s: rank 1 on host n1 in step 12, phase backward lags at "
            "collective 41, the others are at 42");
}

TEST_F(AttemptMonitorTest, AStallOfTheCoordinatorIsNoRanksFault) {
  AttemptMonitor monitor = make(2);
  ASSERT_TRUE(monitor.join(info(0, 2), now()).ok());
  clock_.advance(seconds(9));
  clock_.advance(seconds(500));
  monitor.forgive(seconds(500), now());
  EXPECT_FALSE(monitor.check(now()).has_value());  // neither silent nor missing
  clock_.advance(seconds(1));
  EXPECT_EQ(monitor.check(now())->finding, Finding::session_lost);  // 10 s of its own silence
}

}  // namespace
}  // namespace emoe::server
