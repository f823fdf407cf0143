// Watching: resume, heartbeats, slow readers, readers that go away, shutdown.
#include "tests/server/rpc_support.h"

namespace emoe::server {
namespace {

class RpcWatchTest : public RpcTest {
 protected:
  std::unique_ptr<grpc::ClientReader<v1::Event>> watch(Context& context, const std::string& id,
                                                       int64_t from = 0) {
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    v1::WatchJobRequest request;
    request.set_id(id);
    request.set_from_sequence(from);
    return jobs_->WatchJob(&context, request);
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
  Context context;
  auto stream = watch(context, id);
  v1::Event event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.sequence(), 1);
  EXPECT_EQ(event.state_change().to(), v1::QUEUED);
  Context cancel_context;
  v1::CancelJobRequest cancel;
  cancel.set_id(id);
  v1::Job job;
  ASSERT_TRUE(jobs_->CancelJob(&cancel_context, cancel, &job).ok());
  EXPECT_EQ(job.state(), v1::CANCELLED);
  do {
    ASSERT_TRUE(stream->Read(&event));
  } while (event.has_heartbeat());
  EXPECT_EQ(event.sequence(), 2);
  EXPECT_EQ(event.state_change().to(), v1::CANCELLED);
  EXPECT_FALSE(stream->Read(&event));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(RpcWatchTest, ResumesWhereItIsAsked) {
  const std::string id = queued_job();
  add_logs(id, 9);
  Context context;
  auto stream = watch(context, id, 7);
  v1::Event event;
  for (int64_t sequence = 7; sequence <= 10; ++sequence) {
    ASSERT_TRUE(stream->Read(&event));
    EXPECT_EQ(event.sequence(), sequence);
  }
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  Context beyond_context;
  auto beyond = watch(beyond_context, id, 12);
  EXPECT_FALSE(beyond->Read(&event));
  EXPECT_EQ(beyond->Finish().error_code(), grpc::StatusCode::OUT_OF_RANGE);
  Context unknown_context;
  auto unknown = watch(unknown_context, "job-none");
  EXPECT_FALSE(unknown->Read(&event));
  EXPECT_EQ(reason(unknown->Finish()), "JOB_NOT_FOUND");
}

TEST_F(RpcWatchTest, BeatsWhileNothingHappens) {
  const std::string id = queued_job();
  Context context;
  auto stream = watch(context, id);
  v1::Event event;
  ASSERT_TRUE(stream->Read(&event));
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_TRUE(event.has_heartbeat());
  EXPECT_EQ(event.sequence(), 0);
  context.TryCancel();
}

TEST_F(RpcWatchTest, ReadersThatGoAwayLeaveNothingBehind) {
  const std::string id = queued_job();
  for (int i = 0; i < 20; ++i) {
    Context context;
    auto stream = watch(context, id);
    v1::Event event;
    if (i % 2 == 0) {
      ASSERT_TRUE(stream->Read(&event));
    }
    context.TryCancel();
    stream->Finish();
  }
  EXPECT_EQ(get(id).state(), v1::QUEUED);  // and shutdown in TearDown does not hang
}

TEST_F(RpcWatchTest, ASlowReaderIsToldThatItLagsAndLosesNothing) {
  const std::string id = queued_job();
  Context context;
  auto stream = watch(context, id);
  v1::Event event;
  ASSERT_TRUE(stream->Read(&event));  // has caught up
  ASSERT_TRUE(stream->Read(&event));
  ASSERT_TRUE(event.has_heartbeat());
  add_logs(id, 1100);  // more than max_lag between two looks
  while (stream->Read(&event) && !event.has_lagged()) {
  }
  ASSERT_TRUE(event.has_lagged());
  EXPECT_EQ(event.lagged().missed(), 1100);
  EXPECT_EQ(event.lagged().resume_from_sequence(), 2);
  EXPECT_FALSE(stream->Read(&event));
  EXPECT_TRUE(stream->Finish().ok());
  Context again_context;
  auto again = watch(again_context, id, 2);
  for (int64_t sequence = 2; sequence <= 1101; ++sequence) {
    ASSERT_TRUE(again->Read(&event));
    ASSERT_EQ(event.sequence(), sequence);
  }
  again_context.TryCancel();
}

TEST_F(RpcWatchTest, AReaderThatStopsReadingHoldsUpNeitherOthersNorTheShutdown) {
  const std::string id = queued_job();
  add_logs(id, 20, std::string(8000, 'x'));  // more than fits into the flow-control window
  Context stuck_context;
  auto stuck = watch(stuck_context, id);  // never read
  Context context;
  auto stream = watch(context, id);
  v1::Event event;
  for (int64_t sequence = 1; sequence <= 21; ++sequence) {
    ASSERT_TRUE(stream->Read(&event)) << sequence;
    ASSERT_EQ(event.sequence(), sequence);
  }
  stop();  // expects the shutdown to end within its limit
}

TEST_F(RpcWatchTest, ShutdownTellsWatchersToComeAgain) {
  const std::string id = queued_job();
  Context context;
  auto stream = watch(context, id);
  v1::Event event;
  ASSERT_TRUE(stream->Read(&event));
  stop();
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(RpcWatchTest, ManyWatchersSeeTheSame) {
  const std::string id = queued_job();
  std::vector<std::jthread> watchers;
  for (int i = 0; i < 16; ++i) {
    watchers.emplace_back([&, i] {
      Context context;
      auto stream = watch(context, id);
      v1::Event event;
      int64_t expected = 1;
      while (stream->Read(&event)) {
        if (event.has_heartbeat()) continue;
        EXPECT_EQ(event.sequence(), expected++);
        if (i % 4 == 3) context.TryCancel();
      }
      const grpc::Status status = stream->Finish();
      if (i % 4 == 3) return;  // the end may have come before it left
      EXPECT_TRUE(status.ok()) << status.error_message();
    });
  }
  Context context;
  v1::CancelJobRequest cancel;
  cancel.set_id(id);
  v1::Job job;
  ASSERT_TRUE(jobs_->CancelJob(&context, cancel, &job).ok());
}

}  // namespace
}  // namespace emoe::server
