// Watching: resume, heartbeats, slow readers, readers that go away, shutdown.
#include "tests/server/rpc_support.h"

namespace emoe::server {
namespace {

class RpcWatchTest : public RpcTest {
 protected:
  // A client of WatchJob and the event it read last.
  struct Client {
    bool read() { return stream->Read(&event); }
    bool read_past_heartbeats() {
      while (read()) {
        if (!event.has_heartbeat()) return true;
      }
      return false;
    }
    // The stream's end, whatever comes before it.
    grpc::StatusCode finish() {
      while (read()) {
      }
      return stream->Finish().error_code();
    }
    Context context;
    std::unique_ptr<grpc::ClientReader<v1::Event>> stream;
    v1::Event event;
  };
  std::unique_ptr<Client> watch(const std::string& id, int64_t from = 0) {
    auto client = std::make_unique<Client>();
    client->context.set_deadline(std::chrono::system_clock::now() + kPatience);
    v1::WatchJobRequest request;
    request.set_id(id);
    request.set_from_sequence(from);
    client->stream = jobs_->WatchJob(&client->context, request);
    return client;
  }
  // Adds events to a queued job without running it.
  void add_logs(const std::string& id, int count, const std::string& text = "line") {
    auto record = store_->job(id);
    ASSERT_TRUE(record.ok());
    Change change;
    for (int i = 0; i < count; ++i) {
      v1::Event event;
      event.set_job_id(id);
      event.set_sequence(record->next_sequence++);
      event.mutable_log()->set_text(text);
      change.events.push_back(event);
    }
    change.job = *record;
    ASSERT_TRUE(store_->commit(change).ok());
  }
  std::string queued_job() {
    config_.capacity.cpus = 1;
    submit(2);  // takes both slots
    return submit();
  }
};

TEST_F(RpcWatchTest, SendsStoredEventsThenLiveOnesAndEndsWithTheJob) {
  const std::string id = queued_job();
  const auto client = watch(id);
  ASSERT_TRUE(client->read());
  EXPECT_EQ(client->event.sequence(), 1);
  EXPECT_EQ(client->event.state_change().to(), v1::QUEUED);
  EXPECT_EQ(cancel(id).state(), v1::CANCELLED);
  ASSERT_TRUE(client->read_past_heartbeats());
  EXPECT_EQ(client->event.sequence(), 2);
  EXPECT_EQ(client->event.state_change().to(), v1::CANCELLED) << client->event.DebugString();
  EXPECT_FALSE(client->read());
  EXPECT_EQ(client->finish(), grpc::StatusCode::OK);
}

TEST_F(RpcWatchTest, ResumesWhereItIsAsked) {
  const std::string id = queued_job();
  add_logs(id, 9);
  const auto client = watch(id, 7);
  for (int64_t sequence = 7; sequence <= 10; ++sequence) {
    ASSERT_TRUE(client->read());
    EXPECT_EQ(client->event.sequence(), sequence);
  }
  client->context.TryCancel();
  EXPECT_EQ(client->finish(), grpc::StatusCode::CANCELLED);
  const auto beyond = watch(id, 12);
  EXPECT_FALSE(beyond->read());
  EXPECT_EQ(beyond->finish(), grpc::StatusCode::OUT_OF_RANGE);
  const auto unknown = watch("job-none");
  EXPECT_FALSE(unknown->read());
  EXPECT_EQ(reason(unknown->stream->Finish()), "JOB_NOT_FOUND");
}

TEST_F(RpcWatchTest, BeatsWhileNothingHappens) {
  const auto client = watch(queued_job());
  ASSERT_TRUE(client->read());
  ASSERT_TRUE(client->read());
  EXPECT_TRUE(client->event.has_heartbeat());
  EXPECT_EQ(client->event.sequence(), 0);
  client->context.TryCancel();
}

TEST_F(RpcWatchTest, ReadersThatGoAwayLeaveNothingBehind) {
  const std::string id = queued_job();
  for (int i = 0; i < 20; ++i) {
    const auto client = watch(id);
    if (i % 2 == 0) {
      ASSERT_TRUE(client->read());
    }
    client->context.TryCancel();
    client->stream->Finish();
  }
  EXPECT_EQ(get(id).state(), v1::QUEUED);  // and shutdown in TearDown does not hang
}

TEST_F(RpcWatchTest, ASlowReaderIsToldThatItLagsAndLosesNothing) {
  const std::string id = queued_job();
  const auto client = watch(id);
  ASSERT_TRUE(client->read());  // has caught up
  ASSERT_TRUE(client->read());
  ASSERT_TRUE(client->event.has_heartbeat());
  add_logs(id, 1100);  // more than max_lag between two looks
  while (client->read() && !client->event.has_lagged()) {
  }
  ASSERT_TRUE(client->event.has_lagged());
  EXPECT_EQ(client->event.lagged().missed(), 1100);
  EXPECT_EQ(client->event.lagged().resume_from_sequence(), 2);
  EXPECT_FALSE(client->read());
  EXPECT_EQ(client->finish(), grpc::StatusCode::OK);
  const auto again = watch(id, 2);
  for (int64_t sequence = 2; sequence <= 1101; ++sequence) {
    ASSERT_TRUE(again->read());
    ASSERT_EQ(again->event.sequence(), sequence);
  }
  again->context.TryCancel();
}

TEST_F(RpcWatchTest, AReaderThatStopsReadingHoldsUpNeitherOthersNorTheShutdown) {
  const std::string id = queued_job();
  add_logs(id, 20, std::string(8000, 'x'));  // more than fits into the flow-control window
  const auto stuck = watch(id);              // never read
  const auto client = watch(id);
  for (int64_t sequence = 1; sequence <= 21; ++sequence) {
    ASSERT_TRUE(client->read()) << sequence;
    ASSERT_EQ(client->event.sequence(), sequence);
  }
  stop();  // expects the shutdown to end within its limit
}

TEST_F(RpcWatchTest, ShutdownTellsWatchersToComeAgain) {
  const auto client = watch(queued_job());
  ASSERT_TRUE(client->read());
  stop();
  EXPECT_EQ(client->finish(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(RpcWatchTest, ManyWatchersSeeTheSame) {
  const std::string id = queued_job();
  std::vector<std::jthread> watchers;
  for (int i = 0; i < 16; ++i) {
    watchers.emplace_back([&, i] {
      const auto client = watch(id);
      int64_t expected = 1;
      while (client->read_past_heartbeats()) {
        EXPECT_EQ(client->event.sequence(), expected++);
        if (i % 4 == 3) client->context.TryCancel();
      }
      const grpc::StatusCode end = client->finish();
      if (i % 4 == 3) return;  // the end may have come before it left
      EXPECT_EQ(end, grpc::StatusCode::OK);
    });
  }
  cancel(id);
}

}  // namespace
}  // namespace emoe::server
