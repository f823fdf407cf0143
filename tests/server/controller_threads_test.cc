// The controller's calls from many threads beside its loop, without gRPC: what ThreadSanitizer can
// see.
#include <algorithm>
#include <atomic>
#include <future>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "server/control/call_group.h"
#include "server/control/controller.h"
#include "server/control/fair_mutex.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using namespace std::chrono_literals;

// What most of them came to: a thread may be put aside for long before any one of them.
int64_t median(std::vector<int64_t> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class ControllerThreadsTest : public CoordinatorTest<SystemClock> {
 protected:
  void SetUp() override {
    config_.capacity.cpus = 3;
    config_.poll_interval = 2ms;
    config_.stop_grace = 50ms;  // cancelled attempts free their slots soon
    start_controller();
    controller_->set_listener([this](const std::string& job_id) {
      const std::lock_guard lock(heard_mutex_);
      heard_.insert(job_id);
    });
    loops_ = start_loops();
  }

  using CoordinatorTest::submit;
  std::string submit() { return submit(small_spec(dir_.path())); }
  // Waits for the job's first attempt and joins as its only rank.
  void join_only_rank(const std::string& id, std::shared_ptr<FakeChannel>& channel) {
    const auto launch = launcher_.wait_for_launch(id, 1, 60s);
    ASSERT_TRUE(launch.has_value());
    channel = std::make_shared<FakeChannel>();
    controller_->post(
        {channel, make_join(id, 1, launch->environment.at("EMOE_ATTEMPT_TOKEN"), 0, 1)});
    ASSERT_TRUE(channel->wait_for_welcome());
  }
  // One whole job as its rank lives it.
  void run_one() {
    const std::string id = submit();
    std::shared_ptr<FakeChannel> channel;
    ASSERT_NO_FATAL_FAILURE(join_only_rank(id, channel));
    int64_t sequence = 0;
    const auto send = [&](const auto& body) {
      controller_->post({channel, make_report(++sequence, body)});
    };
    for (int64_t step = 0; step < 20; ++step) {
      v1::StepMetrics metrics;
      metrics.set_step(step);
      send(metrics);
      controller_->post({channel, make_heartbeat(step, "forward", step, step)});
    }
    v1::MergeSummary merged;
    merged.set_verified(true);
    send(merged);
    send(make_end(0));
    ASSERT_TRUE(channel->wait_for_ack(sequence));
    EXPECT_EQ(store_->steps(id, 0, 100)->size(), 20U);
    launcher_.end(id, 1, {});
    ++ran_;
  }

  std::mutex heard_mutex_;
  std::set<std::string> heard_;  // jobs of whose changes the listener was told
  std::atomic<int> ran_ = 0;
  std::vector<std::jthread> loops_;
};

TEST_F(ControllerThreadsTest, CallsFromManyThreadsBesideTheLoop) {
  {
    std::vector<std::jthread> clients;
    clients.reserve(5);
    for (int i = 0; i < 4; ++i) {
      clients.emplace_back([this] {
        for (int round = 0; round < 3; ++round) run_one();
      });
    }
    clients.emplace_back([this] {  // cancels its own jobs in whatever state they are
      for (int round = 0; round < 10; ++round) {
        const std::string id = submit();
        EXPECT_TRUE(controller_->update(id, {.priority = round}, "", {}).ok());
        EXPECT_TRUE(controller_->cancel(id, "", {}).ok());
      }
    });
    clients.emplace_back([this] {  // reads everything meanwhile
      for (int round = 0; round < 50; ++round) {
        JobQuery query;
        auto page = store_->list(query);
        ASSERT_TRUE(page.ok());
        for (v1::Job& job : page->jobs) controller_->decorate(job);
        EXPECT_LE(controller_->slots().free, 3);
        EXPECT_LE(controller_->targets().size(), 3U);
      }
    });
  }
  EXPECT_EQ(ran_, 12);
  loops_.clear();
  step();
  const auto counts = store_->count_by_state();
  EXPECT_EQ(counts->at(v1::SUCCEEDED), 12);
  EXPECT_EQ(heard_.size(), 12 + 10) << "the listener is told of every job";
}

TEST(FairMutex, ALoopThatTakesItAgainAtOnceLetsOthersIn) {
  FairMutex mutex;
  std::atomic<bool> stop = false;
  std::atomic<int> rounds = 0;
  std::jthread loop([&] {
    while (!stop) {
      const std::lock_guard lock(mutex);
      ++rounds;
      std::this_thread::sleep_for(1ms);
    }
  });
  while (rounds == 0) std::this_thread::yield();
  std::vector<int64_t> waited;  // rounds of the loop between asking and getting
  for (int i = 0; i < 21; ++i) {
    const int before = rounds;
    const std::lock_guard lock(mutex);
    waited.push_back(rounds - before);
  }
  stop = true;
  EXPECT_LE(median(waited), 2);
}

TEST_F(ControllerThreadsTest, CallsGetInBetweenAFloodOfReports) {
  const std::string id = submit();
  std::shared_ptr<FakeChannel> channel;
  ASSERT_NO_FATAL_FAILURE(join_only_rank(id, channel));
  std::atomic<int64_t> sent = 0;
  std::jthread flood([&](const std::stop_token& stop) {  // always something in the inbox
    while (!stop.stop_requested()) {
      const int64_t sequence = ++sent;
      controller_->post({channel, make_report(sequence, v1::LogMessage())});
      if (!channel->wait_for_ack(sequence - 8)) return;
    }
  });
  ASSERT_TRUE(channel->wait_for_ack(1));
  std::vector<int64_t> waited;  // reports that came between asking and the second answer
  for (int i = 0; i < 21; ++i) {
    const int64_t before = sent;
    EXPECT_TRUE(controller_->update(id, {.priority = i}, "", {}).ok());
    EXPECT_EQ(controller_->slots().free, 2);
    waited.push_back(sent - before);
  }
  EXPECT_TRUE(channel->wait_for_ack(sent + 20));  // there was a flood up to the last call
  flood = {};
  EXPECT_LE(median(waited), 100);  // a round brings at most 9
}

// A call that comes in while a group is carried out goes with the next one.
TEST(CallGroup, CarriesOutWhatCameInMeanwhile) {
  std::vector<std::vector<int>> groups;
  std::promise<void> entered;
  std::promise<void> goes_on;
  {
    CallGroup<int> group([&](const auto& take) {
      groups.push_back(take());
      if (groups.size() > 1) return;
      entered.set_value();
      goes_on.get_future().wait();
    });
    group.add(0);
    entered.get_future().wait();
    for (int i = 1; i <= 5; ++i) group.add(i);
    goes_on.set_value();
  }  // also what waits at its end
  EXPECT_EQ(groups, (std::vector<std::vector<int>>{{0}, {1, 2, 3, 4, 5}}));
}

}  // namespace
}  // namespace emoe::server
