// Many jobs: those that only wait are places in a queue, new ones are stored together, old ones go.
#include <atomic>
#include <condition_variable>
#include <stdexcept>
#include <thread>

#include "server/control/housekeeper.h"
#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

using std::chrono::hours;
using std::chrono::seconds;

class LoadTest : public ControllerTest {
 protected:
  void SetUp() override {
    ControllerTest::SetUp();
    config_.max_jobs = 50;
    restart();
  }
  Submission submission(const std::string& name, int ranks = 1) {
    v1::JobSpec spec = small_spec(dir_.path(), ranks);
    spec.set_name(name);
    return {.spec = spec, .resolved = config::resolve(spec)};
  }
  std::vector<std::string> names_in_order() {
    std::vector<std::string> names;
    const auto page = store_->list({.descending = false});
    for (const v1::Job& job : page->jobs) names.push_back(job.name());
    return names;
  }
};

TEST_F(LoadTest, SeveralJobsAreStoredInOneCommitAndInTheirOrder) {
  int commits = 0;
  before_commit_ = [&] {
    ++commits;
    return ok_status();
  };
  const RequestKey key{"r1", "CreateJobs", "hash"};
  const std::vector<Submission> three{submission("a"), submission("b"), submission("c")};
  const auto jobs = controller_->create_all(three, key);
  ASSERT_TRUE(jobs.ok()) << jobs.status();
  ASSERT_EQ(jobs->size(), 3U);
  EXPECT_EQ(commits, 1);
  EXPECT_EQ(names_in_order(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(jobs->at(1).name(), "b");
  EXPECT_EQ(jobs->at(1).state(), v1::QUEUED);
  EXPECT_FALSE(jobs->at(1).has_resolved_spec()) << "as lists have it";
  EXPECT_EQ(job(jobs->at(2).id()).resolved_spec().name(), "c");
  EXPECT_EQ(store_->events(jobs->at(2).id(), 1, 10)->size(), 1U);

  const auto again = controller_->create_all(three, key);
  ASSERT_EQ(again->size(), 3U);
  EXPECT_EQ(again->at(2).SerializeAsString(), jobs->at(2).SerializeAsString());
  EXPECT_EQ(controller_->counts().at(v1::QUEUED), 3);
  const auto other = controller_->create_all(three, {"r1", "CreateJobs", "other"});
  EXPECT_EQ(error_detail_of(other.status()).reason, "REQUEST_ID_REUSED");
}

TEST_F(LoadTest, AllOfACallOrNothing) {
  const auto wide = controller_->create_all({submission("a"), submission("wide", 3)}, {});
  EXPECT_EQ(error_detail_of(wide.status()).reason, "NOT_ENOUGH_SLOTS");
  std::vector<Submission> many;
  for (int i = 0; i <= config_.max_jobs; ++i) many.push_back(submission("many"));
  EXPECT_EQ(error_detail_of(controller_->create_all(many, {}).status()).reason, "QUEUE_FULL");
  many.pop_back();
  fail_commits(1);
  EXPECT_EQ(error_detail_of(controller_->create_all(many, {}).status()).reason, "STORE_FAILED");
  EXPECT_TRUE(names_in_order().empty());
  EXPECT_TRUE(controller_->counts().empty());
  EXPECT_EQ(controller_->create_all(many, {})->size(), 50U);
  EXPECT_EQ(controller_->counts().at(v1::QUEUED), 50);
}

// While one commit is made, what comes in waits for the next one, which is that of all of them. Where it
// fails each call is stored alone.
TEST_F(LoadTest, CallsThatComeDuringACommitShareTheNext) {
  constexpr int kCalls = 8;
  for (const bool fails : {false, true}) {
    restart();
    std::mutex mutex;
    std::condition_variable changed;
    bool entered = false;
    bool goes_on = false;
    std::atomic<int> commits = 0;
    before_commit_ = [&]() -> Status {
      const int number = ++commits;
      std::unique_lock lock(mutex);
      entered = true;
      changed.notify_all();
      changed.wait(lock, [&] { return goes_on; });
      return fails && number == 2 ? absl::ResourceExhaustedError("full") : ok_status();
    };
    std::atomic<int> good = 0;
    std::atomic<int> calling = 0;
    const auto call = [&](int i) {
      ++calling;
      const auto made = controller_->create(submission("job-" + std::to_string(i)), {});
      if (made.ok() && made->etag() == job(made->id()).etag()) ++good;
    };
    {
      std::vector<std::jthread> threads;
      threads.emplace_back(call, 0);
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return entered; });
      lock.unlock();
      for (int i = 1; i <= kCalls; ++i) threads.emplace_back(call, i);
      while (calling <= kCalls) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(300));  // from there into the group
      lock.lock();
      goes_on = true;
      changed.notify_all();
    }
    EXPECT_EQ(good, kCalls + 1);
    EXPECT_LE(commits, fails ? 3 + kCalls : 3) << "one for the first, one for all others";
    before_commit_ = [] { return ok_status(); };
  }
  EXPECT_EQ(store_->list({.limit = 1000})->jobs.size(), 2U * (kCalls + 1));
}

// The thread that stores new jobs outlives an exception, and so does the database.
TEST_F(LoadTest, AnExceptionIsAnErrorOfItsCallAlone) {
  before_commit_ = []() -> Status { throw std::runtime_error("no memory"); };
  const auto failed = controller_->create(submission("a"), {});
  EXPECT_EQ(failed.status().code(), StatusCode::kInternal);
  EXPECT_EQ(failed.status().message(), "no memory");
  before_commit_ = [] { return ok_status(); };
  EXPECT_TRUE(controller_->create(submission("b"), {}).ok());
  EXPECT_EQ(names_in_order(), std::vector<std::string>{"b"});
}

// What a job that waits says and does must not depend on whether it is in memory.
TEST_F(LoadTest, AJobThatOnlyWaitsIsChangedAndStartedFromTheStore) {
  const std::string first = submit(2);
  step();
  const std::string waits = submit(1);
  const std::string goes = submit(1);
  const std::string rests = submit(1);
  ASSERT_TRUE(controller_->pause(rests, {}).ok());
  for (int round = 0; round < 2; ++round) {
    step();
    EXPECT_EQ(job(waits).queue_position(), 1);
    EXPECT_EQ(job(goes).queue_position(), 2);
    EXPECT_EQ(job(goes).message(),
              "waits for 1 of 1 slot (0 free); position 2; " + first + " uses 2");
    EXPECT_EQ(job(rests).state(), v1::PAUSED);
    EXPECT_EQ(controller_->counts(),
              (std::map<v1::JobState, int>{{v1::QUEUED, 2}, {v1::STARTING, 1}, {v1::PAUSED, 1}}));
    if (round == 0) restart();
  }
  ASSERT_TRUE(controller_->update(goes, {.priority = 7}, "", {}).ok());
  step();
  EXPECT_EQ(job(goes).queue_position(), 1);
  EXPECT_EQ(job(waits).queue_position(), 2);
  ASSERT_TRUE(controller_->cancel(goes, "", {}).ok());
  ASSERT_TRUE(controller_->resume(rests, {}).ok());
  step();
  EXPECT_EQ(job(goes).state(), v1::CANCELLED);
  EXPECT_EQ(job(waits).queue_position(), 1);
  EXPECT_EQ(job(rests).queue_position(), 2);
  EXPECT_EQ(error_detail_of(controller_->update(goes, {.priority = 1}, "", {}).status()).reason,
            "WRONG_STATE");
  EXPECT_EQ(error_detail_of(controller_->cancel("job-none", "", {}).status()).reason,
            "JOB_NOT_FOUND");
  ASSERT_TRUE(controller_->cancel(first, "", {}).ok());
  advance(seconds(20));
  advance(seconds(1));
  advance(seconds(1));
  EXPECT_EQ(job(waits).state(), v1::STARTING);
  EXPECT_EQ(job(rests).state(), v1::STARTING);
}

TEST_F(LoadTest, EndedJobsAreForgottenAfterTheRetention) {
  Housekeeper housekeeper({.retention = hours(1)}, *store_, *controller_, clock_);
  std::vector<std::string> ended;
  for (int i = 0; i < 3; ++i) {
    const std::string id = submit();
    std::filesystem::create_directories(config_.job_dir(id));
    ASSERT_TRUE(controller_->cancel(id, "", {}).ok());
    ended.push_back(id);
    clock_.advance(seconds(1500));
  }
  const std::string waits = submit();
  housekeeper.round({});  // the first ended 75 minutes ago
  EXPECT_EQ(controller_->get(ended[0]).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(store_->events(ended[0], 1, 10)->empty());
  EXPECT_FALSE(std::filesystem::exists(config_.job_dir(ended[0])));
  EXPECT_TRUE(controller_->get(ended[1]).ok());
  EXPECT_EQ(controller_->counts().at(v1::CANCELLED), 2);
  clock_.advance(hours(10));
  housekeeper.round({});
  EXPECT_FALSE(controller_->counts().contains(v1::CANCELLED));
  EXPECT_EQ(job(waits).state(), v1::QUEUED) << "however long it waits";

  Housekeeper keeps({}, *store_, *controller_, clock_);
  ASSERT_TRUE(controller_->cancel(waits, "", {}).ok());
  clock_.advance(hours(100'000));
  keeps.round({});
  EXPECT_TRUE(controller_->get(waits).ok()) << "without a retention all is kept";
}

}  // namespace
}  // namespace emoe::server
