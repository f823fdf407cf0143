// The hub of WatchJob streams without gRPC: what happens to streams comes from plain threads, as
// it comes from gRPC's in the server, so that ThreadSanitizer sees all of it.
#include "server/rpc/watch_hub.h"

#include <deque>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

#include "server/job/errors.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

using namespace std::chrono_literals;

// Plays gRPC: answers writes and finishes later, on a thread of its own.
class Wire {
 public:
  Wire()
      : thread_([this](const std::stop_token& stop) {
          while (true) {
            std::unique_lock lock(mutex_);
            if (!filled_.wait(lock, stop, [&] { return !work_.empty(); })) return;
            const auto next = std::move(work_.front());
            work_.pop_front();
            lock.unlock();
            next();
          }
        }) {}
  void later(std::function<void()> action) {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(action));
    filled_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable_any filled_;
  std::deque<std::function<void()>> work_;
  std::jthread thread_;
};

class FakeStream final : public EventStream {
 public:
  FakeStream(WatchHub& hub, Wire& wire) : hub_(hub), wire_(wire) {}

  void write(const v1::Event& event) override {
    {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(finished_.has_value());
      if (event.has_heartbeat()) {
        ++heartbeats_;
      } else {
        sequences_.push_back(event.sequence());
      }
      if (stuck_) return;
    }
    wire_.later([this] { hub_.written(this, true); });
    changed_.notify_all();
  }
  void finish(const Status& status) override {
    {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(finished_.has_value());
      finished_ = status;
    }
    // The hub holds the stream's last owner: it may be gone after closed().
    wire_.later([hub = &hub_, stream = this] { hub->closed(stream); });
    changed_.notify_all();
  }

  void get_stuck() {
    const std::lock_guard lock(mutex_);
    stuck_ = true;
  }
  bool wait_for_events(size_t count) {
    return wait([&] { return sequences_.size() >= count; });
  }
  bool wait_for_heartbeat() {
    return wait([&] { return heartbeats_ > 0; });
  }
  std::optional<Status> wait_for_finish() {
    wait([&] { return finished_.has_value(); });
    const std::lock_guard lock(mutex_);
    return finished_;
  }
  std::vector<int64_t> sequences() {
    const std::lock_guard lock(mutex_);
    return sequences_;
  }

 private:
  template <typename Condition>
  bool wait(const Condition& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 60s, condition);
  }
  WatchHub& hub_;
  Wire& wire_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int64_t> sequences_;
  int heartbeats_ = 0;
  bool stuck_ = false;
  std::optional<Status> finished_;
};

class WatchHubTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = JobStore::open({dir_ / "state"});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    hub_ = std::make_unique<WatchHub>(WatchHub::Config{.heartbeat = 20ms}, *store_, clock_);
    wire_ = std::make_unique<Wire>();
  }
  void TearDown() override { hub_->stop(); }  // before the wire that its streams use goes
  // One more event of the job, told to the hub.
  void happen(const std::string& id, v1::JobState state = v1::RUNNING) {
    const std::lock_guard lock(records_mutex_);
    JobRecord& record = records_[id];
    record.job.set_id(id);
    record.job.set_state(state);
    Change change;
    v1::Event event;
    event.set_job_id(id);
    event.set_sequence(record.next_sequence++);
    event.mutable_state_change()->set_to(state);
    change.events.push_back(event);
    change.job = record;
    ASSERT_TRUE(store_->commit(change).ok());
    hub_->notify(id);
  }
  std::shared_ptr<FakeStream> watch(const std::string& id, int64_t from = 0) {
    auto stream = std::make_shared<FakeStream>(*hub_, *wire_);
    EXPECT_TRUE(hub_->watch(id, from, stream).ok());
    return stream;
  }

  testing::TempDir dir_;
  SystemClock clock_;
  std::unique_ptr<JobStore> store_;
  std::mutex records_mutex_;
  std::map<std::string, JobRecord> records_;
  std::unique_ptr<WatchHub> hub_;
  std::unique_ptr<Wire> wire_;
};

TEST_F(WatchHubTest, StreamsAreServedAndEndWithTheirJob) {
  happen("a");
  auto stream = watch("a");
  ASSERT_TRUE(stream->wait_for_events(1));
  ASSERT_TRUE(stream->wait_for_heartbeat());
  happen("a");
  happen("a", v1::SUCCEEDED);
  const auto end = stream->wait_for_finish();
  ASSERT_TRUE(end.has_value());
  EXPECT_TRUE(end->ok());
  EXPECT_EQ(stream->sequences(), (std::vector<int64_t>{1, 2, 3}));
}

// Of a thousand streams of one job each event costs one look into the store, and none when it is written.
TEST_F(WatchHubTest, TheStoreIsAskedOnceForAllStreamsThatAreAsFar) {
  hub_ = std::make_unique<WatchHub>(WatchHub::Config{.heartbeat = 600s}, *store_, clock_);
  happen("a");
  std::vector<std::shared_ptr<FakeStream>> streams;
  for (int i = 0; i < 100; ++i) streams.push_back(watch("a"));
  for (const auto& stream : streams) ASSERT_TRUE(stream->wait_for_events(1));
  const int64_t before = store_->reads();
  constexpr size_t kMore = 10;
  for (size_t i = 1; i <= kMore; ++i) {
    happen("a");
    for (const auto& stream : streams) ASSERT_TRUE(stream->wait_for_events(1 + i));
  }
  // One read for an event; one more where the news came while some streams were being served.
  EXPECT_LE(store_->reads() - before, static_cast<int64_t>(3 * kMore));
  happen("a", v1::SUCCEEDED);
  for (const auto& stream : streams) EXPECT_TRUE(stream->wait_for_finish()->ok());
}

TEST_F(WatchHubTest, RefusesWhatItCannotServe) {
  happen("a");
  auto stream = std::make_shared<FakeStream>(*hub_, *wire_);
  EXPECT_EQ(error_detail_of(hub_->watch("none", 0, stream)).reason, "JOB_NOT_FOUND");
  EXPECT_EQ(error_detail_of(hub_->watch("a", 3, stream)).reason, "SEQUENCE_OUT_OF_RANGE");
  EXPECT_EQ(hub_->watchers(), 0U);
}

TEST_F(WatchHubTest, NewsWritesCancelsAndTheEndFromManyThreads) {
  happen("a");
  happen("b");
  std::vector<std::shared_ptr<FakeStream>> streams;
  {
    std::vector<std::jthread> threads;
    for (const char* id : {"a", "b"}) {
      threads.emplace_back([this, id] {
        for (int i = 0; i < 50; ++i) happen(id);
      });
    }
    std::mutex streams_mutex;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 10; ++i) {
          auto stream = watch(t == 0 ? "a" : "b");
          if (i % 3 == 0) stream->get_stuck();
          if (i % 2 == 0) hub_->cancelled(stream.get());
          const std::lock_guard lock(streams_mutex);
          streams.push_back(std::move(stream));
        }
      });
    }
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) EXPECT_LE(hub_->watchers(), 30U);
    });
  }
  hub_->drain(absl::UnavailableError("draining"));
  auto late = watch("a");
  ASSERT_TRUE(late->wait_for_finish().has_value());
  // A stream whose write is never answered is ended by its transport: as a failed write.
  for (const auto& stream : streams) hub_->written(stream.get(), false);
  for (const auto& stream : streams) {
    const auto end = stream->wait_for_finish();
    ASSERT_TRUE(end.has_value());
    EXPECT_FALSE(end->ok());
    const auto sequences = stream->sequences();
    for (size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_EQ(sequences[i], static_cast<int64_t>(i) + 1);  // in order, none twice
    }
  }
  for (int i = 0; i < 2000 && hub_->watchers() > 0; ++i) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(hub_->watchers(), 0U);
  hub_->stop();
  hub_->notify("a");  // nobody is there to hear it
}

}  // namespace
}  // namespace emoe::server
