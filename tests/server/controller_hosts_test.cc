// Jobs that may run with fewer ranks, and pools of hosts that come and go.
#include "server/control/controller.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using launcher::EndCause;
using std::chrono::seconds;
using Placement = std::vector<launcher::HostRanks>;

class ElasticTest : public ControllerTest {
 protected:
  void SetUp() override {
    config_.capacity.cpus = 4;
    config_.elastic_wait = seconds(60);
    ControllerTest::SetUp();
  }
  std::string submit_elastic(int ranks, int min_ranks) {
    v1::JobSpec spec = small_spec(dir_.path(), ranks);
    spec.mutable_parallel()->set_min_ranks(min_ranks);
    return submit(spec);
  }
  launcher::LaunchRequest last_launch() { return launcher_.launches().back(); }
};

TEST_F(ElasticTest, ShrinksToTheFreeSlotsAndGrowsAgainAtTheNextAttempt) {
  const std::string id = submit_elastic(4, 2);
  step();
  EXPECT_EQ(last_launch().ranks, 4);
  const std::string other = submit(1, /*priority=*/1);
  launcher_.end(id, 1, {.signal = 9, .rank = 1});
  step();  // the other job takes a slot while this one pauses
  EXPECT_EQ(last_launch().job_id, other);
  advance(config_.retry_pause);
  advance(config_.elastic_wait - seconds(1));
  EXPECT_EQ(job(id).state(), v1::QUEUED);
  EXPECT_NE(job(id).message().find("(3 free); starts with 2 or more in 1 s"), std::string::npos)
      << job(id).message();
  advance(seconds(1));
  EXPECT_EQ(last_launch().ranks, 3);  // of a batch of 8 rows each has 3 at most
  EXPECT_EQ(job(id).message(), "runs with 3 of 4 ranks: there are no slots for more now");
  EXPECT_EQ(job(id).attempts(1).world_size(), 3);
  EXPECT_EQ(controller_->slots().free, 0);

  for (int rank = 0; rank < 3; ++rank) join(id, rank, 3, 2);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  ASSERT_TRUE(controller_->cancel(other, "", {}).ok());
  launcher_.end(other, 1, {.cause = EndCause::cancelled});
  launcher_.end(id, 2, {.signal = 9, .rank = 1});
  step();
  advance(2 * config_.retry_pause);
  ASSERT_EQ(job(id).attempts_size(), 3);
  EXPECT_EQ(job(id).attempts(2).world_size(), 4);
  EXPECT_EQ(last_launch().ranks, 4);
}

TEST_F(ElasticTest, TakesUpAnAttemptWithFewerRanksAfterARestart) {
  const std::string id = submit_elastic(4, 2);
  config_.capacity.cpus = 2;  // the administrator took slots away
  restart();
  step();
  EXPECT_EQ(last_launch().ranks, 2);  // at once: the others cannot come free
  restart();
  join(id, 0, 2);
  join(id, 1, 2);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
}

TEST_F(ElasticTest, RanksThatShareLayersComeInWholeGroups) {
  v1::JobSpec spec = small_spec(dir_.path(), 4);
  spec.mutable_parallel()->set_min_ranks(2);
  spec.mutable_parallel()->set_tensor(2);
  const std::string id = submit(spec);
  config_.capacity.cpus = 3;
  restart();  // what the queue is read back from knows of the groups
  step();
  EXPECT_EQ(last_launch().job_id, id);
  EXPECT_EQ(last_launch().ranks, 2);
  EXPECT_EQ(job(id).attempts(0).world_size(), 2);
}

TEST_F(ElasticTest, IsRefusedOnlyWhereItCanNeverRun) {
  EXPECT_NE(submit_elastic(9, 4), "");
  const auto refused = [&] {
    v1::JobSpec spec = small_spec(dir_.path(), 9);
    spec.mutable_parallel()->set_min_ranks(5);
    return create(spec).status();
  }();
  EXPECT_EQ(refused.message(), "parallel.min_ranks is 5, this service has 4 slots");
}

TEST_F(ElasticTest, ShrinksWhereTheEngineHasNoRoomAndGrowsAgainAtTheNextAttempt) {
  const std::string why = "Slurm job 17 is pending: ReqNodeNotAvail";
  const std::string id = submit_elastic(4, 2);
  step();
  launcher_.set_no_room(id, 1, why, 3);
  step();
  EXPECT_EQ(job(id).message(), why + "; starts with 3 of 4 ranks in 60 s");
  advance(config_.elastic_wait - seconds(1));
  EXPECT_EQ(job(id).state(), v1::STARTING);
  launcher_.set_unknown(id, 1, true);  // the engine is away: time that it does not wait less
  advance(seconds(1));
  launcher_.set_unknown(id, 1, false);
  step();
  EXPECT_EQ(job(id).state(), v1::RECOVERING);
  EXPECT_EQ(launcher_.launches().size(), 1U) << "before the first has gone";
  step();
  const std::string given_up =
      "there is no room for 4 ranks, the next attempt starts with 3: " + why;
  EXPECT_EQ(job(id).attempts(0).message(), given_up);
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_START_FAILED);
  EXPECT_FALSE(job(id).attempts(0).counted());
  EXPECT_EQ(last_launch().ranks, 3) << "without a pause";
  EXPECT_EQ(job(id).attempts(1).world_size(), 3);
  EXPECT_EQ(job(id).message(), "runs with 3 of 4 ranks: there are no slots for more now");

  // Nor for three, and the engine does not say for how many. The coordinator is killed on the way.
  launcher_.set_no_room(id, 2, why);
  step();
  advance(config_.elastic_wait);
  EXPECT_EQ(job(id).attempts(1).next_world_size(), 2);
  restart();
  step();
  step();
  EXPECT_EQ(last_launch().ranks, 2);
  launcher_.set_no_room(id, 3, why);  // with as few as it may have it waits
  advance(3 * config_.elastic_wait);
  EXPECT_EQ(job(id).message(), why);
  launcher_.set_queued(id, 3, "");
  step();
  for (int rank = 0; rank < 2; ++rank) join(id, rank, 2, 3);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
  launcher_.end(id, 3, {.signal = 9, .rank = 1});
  step();
  advance(config_.retry_pause);
  EXPECT_EQ(last_launch().ranks, 4);
  EXPECT_EQ(job(id).attempts(3).world_size(), 4);
}

TEST_F(ElasticTest, AJobWithAllItsRanksOrNoneWaitsInTheEnginesQueue) {
  const std::string id = submit(4);
  step();
  launcher_.set_no_room(id, 1, "Slurm job 17 is pending: Resources", 3);
  advance(10 * config_.elastic_wait);
  EXPECT_EQ(job(id).state(), v1::STARTING);
  EXPECT_EQ(job(id).message(), "Slurm job 17 is pending: Resources");
}

TEST_F(ElasticTest, RoomThatComesBeforeTheWaitIsOverIsTaken) {
  const std::string id = submit_elastic(4, 2);
  step();
  launcher_.set_no_room(id, 1, "Resources", 3);
  advance(config_.elastic_wait - seconds(1));
  launcher_.set_queued(id, 1, "Priority");  // it waits for its turn now
  advance(seconds(1));
  launcher_.set_no_room(id, 1, "Resources", 3);
  advance(config_.elastic_wait - seconds(1));
  EXPECT_EQ(job(id).state(), v1::STARTING);
  launcher_.set_queued(id, 1, "");
  step();
  for (int rank = 0; rank < 4; ++rank) join(id, rank, 4);
  EXPECT_EQ(job(id).state(), v1::RUNNING);
}

class HostsTest : public ElasticTest {
 protected:
  void SetUp() override {
    config_.hosts = {{"n1", 2, 0}, {"n2", 2, 0}};
    config_.host_pause = seconds(60);
    ElasticTest::SetUp();
  }
};

TEST_F(HostsTest, AHostThatFailedGetsNoRanksForAWhile) {
  const std::string wide = submit(4);
  const std::string id = submit(2, /*priority=*/1);
  step();
  EXPECT_EQ(last_launch().placement, (Placement{{"n1", 2, {}}}));
  launcher_.end(id, 1,
                {.cause = EndCause::host_unusable, .host = "n1", .detail = "host n1 is away"});
  step();
  step();
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_START_FAILED);
  EXPECT_FALSE(job(id).attempts(0).counted());
  EXPECT_EQ(job(id).attempts(0).message(), "host n1 is away");
  EXPECT_EQ(job(wide).message(),
            "cannot run now: needs 4 slots, the service has 2; host n1 gets no ranks for 60 s: "
            "host n1 is away");
  const auto slots = controller_->slots();
  EXPECT_EQ(slots.free, 2);
  ASSERT_EQ(slots.hosts.size(), 2U);
  EXPECT_EQ(slots.hosts[0].slots_free(), 0);
  EXPECT_EQ(slots.hosts[0].problem(), "host n1 gets no ranks for 60 s: host n1 is away");
  EXPECT_EQ(slots.hosts[1].problem(), "");

  advance(config_.retry_pause);
  EXPECT_EQ(last_launch().placement, (Placement{{"n2", 2, {}}}));
  launcher_.end(id, 2, {.cause = EndCause::host_unusable, .host = "n2", .detail = "host n2 too"});
  advance(seconds(56));  // n1 is tried again, n2 not yet
  EXPECT_EQ(last_launch().placement, (Placement{{"n1", 2, {}}}));
}

TEST_F(HostsTest, AnElasticJobGoesOnWithoutTheLostHost) {
  const std::string id = submit_elastic(4, 2);
  step();
  EXPECT_EQ(last_launch().placement, (Placement{{"n1", 2, {}}, {"n2", 2, {}}}));
  launcher_.end(id, 1, {.cause = EndCause::node_lost, .host = "n2", .detail = "host n2 is gone"});
  step();
  step();
  EXPECT_EQ(job(id).attempts(0).reason(), v1::REASON_PEER_LOST);
  advance(config_.retry_pause);  // it does not wait for slots that no job holds
  EXPECT_EQ(last_launch().placement, (Placement{{"n1", 2, {}}}));
  EXPECT_EQ(last_launch().ranks, 2);
}

}  // namespace
}  // namespace emoe::server
