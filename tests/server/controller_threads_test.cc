// The controller's calls from many threads beside its loop, without gRPC: what ThreadSanitizer can
// see.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "server/control/controller.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using namespace std::chrono_literals;

// A stream that may be spoken to from any thread.
class SharedChannel final : public SessionChannel {
 public:
  void welcome(int64_t committed) override {
    set([&] { welcomed_ = committed; });
  }
  void ack(int64_t sequence) override {
    set([&] { acked_ = sequence; });
  }
  void command(RankCommand) override {}
  void close(const Status&) override {
    set([&] { closed_ = true; });
  }
  void consumed() override {}

  bool wait_for_ack(int64_t sequence) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, 20s, [&] { return closed_ || acked_ >= sequence; });
    return acked_ >= sequence;
  }
  bool wait_for_welcome() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, 20s, [&] { return closed_ || welcomed_ >= 0; });
    return welcomed_ >= 0;
  }

 private:
  template <typename Change>
  void set(const Change& change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t welcomed_ = -1;
  int64_t acked_ = 0;
  bool closed_ = false;
};

class ControllerThreadsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_inputs(dir_.path());
    config_.state_dir = dir_ / "state";
    config_.output_root = dir_ / "outputs";
    config_.worker_program = "/opt/emoe-worker";
    config_.slots_total = 3;
    config_.poll_interval = 2ms;
    config_.stop_grace = 50ms;  // cancelled attempts free their slots soon
    auto store = JobStore::open({config_.state_dir, {}});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    controller_ = std::make_unique<Controller>(config_, *store_, launcher_, clock_, probe_);
    ASSERT_TRUE(controller_->recover().ok());
    controller_->set_coordinator_address("127.0.0.1:7070");
    controller_->set_listener([this](const std::string&) { ++events_; });
    loop_ = std::jthread([this](const std::stop_token& stop) { controller_->run(stop); });
  }

  std::string submit() {
    const v1::JobSpec spec = small_spec(dir_.path());
    const auto job = controller_->create(spec, config::resolve(spec), {});
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? job->id() : "";
  }
  // One whole job as its rank lives it.
  void run_one() {
    const std::string id = submit();
    const auto launch = launcher_.wait_for_launch(id, 1, 20s);
    ASSERT_TRUE(launch.has_value());
    auto channel = std::make_shared<SharedChannel>();
    JoinRequest join{id, 1, {}, 1, launch->environment.at("EMOE_ATTEMPT_TOKEN")};
    join.rank.set_world_size(1);
    controller_->post({channel, join});
    ASSERT_TRUE(channel->wait_for_welcome());
    int64_t sequence = 0;
    const auto send = [&](auto body) {
      controller_->post({channel, RankReport{++sequence, std::move(body)}});
    };
    for (int64_t step = 0; step < 20; ++step) {
      StepReport report{step, v1::StepMetrics(), {}};
      report.metrics->set_step(step);
      send(report);
      controller_->post({channel, RankPulse{step, "forward", step, step, "", 0, 0}});
    }
    v1::MergeSummary merged;
    merged.set_verified(true);
    send(merged);
    send(EndReport{0, "", 20});
    ASSERT_TRUE(channel->wait_for_ack(sequence));
    EXPECT_EQ(store_->steps(id, 0, 100)->size(), 20U);
    launcher_.end(id, 1, {});
    ++ran_;
  }

  testing::TempDir dir_;
  ControlConfig config_;
  SystemClock clock_;
  metrics::FakeRegistry registry_;
  CoordinatorProbe probe_{registry_};
  launcher::FakeLauncher launcher_;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<Controller> controller_;
  std::atomic<int> events_ = 0;
  std::atomic<int> ran_ = 0;
  std::jthread loop_;
};

TEST_F(ControllerThreadsTest, CallsFromManyThreadsBesideTheLoop) {
  {
    std::vector<std::jthread> clients;
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
  EXPECT_GT(events_, 0);
  loop_ = {};
  controller_->step();
  const auto counts = store_->count_by_state();
  EXPECT_EQ(counts->at(v1::SUCCEEDED), 12);
}

}  // namespace
}  // namespace emoe::server
