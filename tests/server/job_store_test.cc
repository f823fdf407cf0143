#include "server/job/job_store.h"

#include <fstream>
#include <limits>

#include <gtest/gtest.h>
#include <sqlite3.h>

#include "server/job/errors.h"
#include "server/job/sqlite.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

class JobStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<JobStore> open(const std::string& folder = "state") {
    auto store = JobStore::open({dir_ / folder, {}});
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  static JobRecord record(const std::string& id, int64_t created = 1, int priority = 0) {
    JobRecord record;
    record.job.set_id(id);
    record.job.set_name("name of " + id);
    record.job.set_state(v1::QUEUED);
    record.job.set_priority(priority);
    record.job.mutable_create_time()->set_seconds(created);
    return record;
  }
  static v1::Event event(const std::string& id, int64_t sequence) {
    v1::Event event;
    event.set_job_id(id);
    event.set_sequence(sequence);
    event.mutable_log()->set_text("text");
    return event;
  }
  static v1::Event step_event(const std::string& id, int64_t sequence, int64_t step, int attempt) {
    v1::Event event = JobStoreTest::event(id, sequence);
    event.mutable_step()->set_step(step);
    event.mutable_step()->set_attempt(attempt);
    return event;
  }
  static v1::Event eval_event(const std::string& id, int64_t sequence, int64_t step, double loss) {
    v1::Event event = JobStoreTest::event(id, sequence);
    event.mutable_eval()->set_step(step);
    event.mutable_eval()->set_loss(loss);
    return event;
  }
  static v1::Event checkpoint_event(const std::string& id, int64_t sequence, int64_t step) {
    v1::Event event = JobStoreTest::event(id, sequence);
    event.mutable_checkpoint()->set_step(step);
    return event;
  }
  static Change change(const JobRecord& job, std::vector<v1::Event> events = {}) {
    Change change;
    change.job = job;
    change.events = std::move(events);
    return change;
  }
  // A database as an earlier version left it; the files are never changed with the schema.
  void write_database(const std::string& name) {
    const char* source = std::getenv("EMOE_SOURCE_DIR");
    if (source == nullptr) GTEST_SKIP() << "EMOE_SOURCE_DIR is not set";
    std::ifstream file(fs::path(source) / "tests/server" / name);
    const std::string sql((std::istreambuf_iterator<char>(file)), {});
    ASSERT_FALSE(sql.empty());
    fs::create_directories(dir_ / "state");
    sqlite3* raw = nullptr;
    ASSERT_EQ(sqlite3_open((dir_ / "state" / "jobs.db").c_str(), &raw), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(raw, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(raw);
    sqlite3_close(raw);
  }
  // Opens the database to migrate it, and again as it is then.
  template <typename Check>
  void open_twice(const Check& check) {
    for (int round = 0; round < 2; ++round) {
      const auto store = open();
      ASSERT_NE(store, nullptr);
      const auto job = store->job("job-1");
      ASSERT_TRUE(job.ok()) << job.status();
      check(*store, *job, round);
    }
  }
  testing::TempDir dir_;
};

TEST_F(JobStoreTest, KeepsEverythingOverAReopening) {
  JobRecord job = record("a");
  job.next_sequence = 5;
  job.job.mutable_progress()->set_step(1);
  job.job.mutable_update_time()->set_seconds(9);
  job.run_time = std::chrono::seconds(77);
  job.revision = 7;
  job.failures = 2;
  job.not_before = WallTime(std::chrono::milliseconds(123456));
  job.cancel_message = "why";
  AttemptRecord attempt{.job_id = "a", .number = 2, .token = "t", .handle = "h"};
  attempt.stop_reason = Finding::hang;
  attempt.stop_message = "rank 1";
  attempt.end_code = 0;
  attempt.fault_code = 65;
  attempt.fault_message = "row 3";
  {
    const auto store = open();
    Change all = change(job, {event("a", 1), eval_event("a", 2, 0, 1.5), step_event("a", 3, 0, 2),
                              checkpoint_event("a", 4, 1)});
    all.attempts = {attempt};
    all.cursors = {{"a", 2, 1, 17}};
    all.request = RequestRecord{"r", "CreateJob", "hash", "a", std::string("an\0swer", 7)};
    ASSERT_TRUE(store->commit(all).ok());
  }
  const auto store = open();
  const auto read = store->job("a");
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->job.SerializeAsString(), job.job.SerializeAsString());
  EXPECT_EQ(read->next_sequence, 5);
  EXPECT_EQ(read->run_time, job.run_time);
  EXPECT_EQ(read->revision, 7);
  EXPECT_EQ(read->failures, 2);
  EXPECT_EQ(read->not_before, job.not_before);
  EXPECT_EQ(read->cancel_message, "why");
  const auto attempts = store->attempts("a");
  ASSERT_EQ(attempts->size(), 1U);
  EXPECT_EQ(attempts->front().handle, "h");
  EXPECT_EQ(attempts->front().stop_reason, Finding::hang);
  EXPECT_EQ(attempts->front().end_code, 0);
  EXPECT_EQ(attempts->front().fault_code, 65);
  EXPECT_FALSE(attempts->front().ended);
  EXPECT_EQ(store->events("a", 2, 10)->size(), 3U);
  EXPECT_EQ(store->steps("a", 0, 10)->size(), 1U);
  EXPECT_EQ(store->evals("a", 0, 100)->size(), 1U);
  EXPECT_EQ(store->checkpoints("a", 100)->size(), 1U);
  EXPECT_EQ(*store->committed_sequence("a", 2, 1), 17);
  EXPECT_EQ(*store->committed_sequence("a", 1, 1), 0);
  const auto request = store->request("r");
  ASSERT_TRUE(request.ok() && request->has_value());
  EXPECT_EQ((*request)->response, std::string("an\0swer", 7));
}

TEST_F(JobStoreTest, AChangeStandsOrFallsWhole) {
  const auto store = open();
  ASSERT_TRUE(store->commit(change(record("a"), {event("a", 1)})).ok());
  JobRecord next = record("a");
  next.job.set_state(v1::STARTING);
  EXPECT_FALSE(store->commit(change(next, {event("a", 2), event("a", 1)})).ok());
  EXPECT_EQ(store->job("a")->job.state(), v1::QUEUED);
  EXPECT_EQ(store->events("a", 1, 10)->size(), 1U);
  // So do several changes of one commit.
  EXPECT_FALSE(
      store->commit(std::vector<Change>{change(next), change(record("b"), {event("x", 1)})}).ok());
  EXPECT_EQ(store->job("a")->job.state(), v1::QUEUED);
}

TEST_F(JobStoreTest, WhatWasCommittedSurvivesACrashInTheMiddleOfAWrite) {
  {
    const auto store = open();
    for (int i = 1; i <= 50; ++i) {
      JobRecord job = record("a");
      job.next_sequence = i + 1;
      ASSERT_TRUE(store->commit(change(job, {event("a", i)})).ok());
    }
    // The files as a crash would leave them: the database never checkpointed, the log torn at
    // different places behind the last commits.
    const auto wal = fs::file_size(dir_ / "state" / "jobs.db-wal");
    for (const uintmax_t lost : {uintmax_t{0}, uintmax_t{1}, uintmax_t{5000}, wal / 2}) {
      const fs::path copy = dir_ / ("copy-" + std::to_string(lost));
      fs::create_directories(copy);
      fs::copy_file(dir_ / "state" / "jobs.db", copy / "jobs.db");
      fs::copy_file(dir_ / "state" / "jobs.db-wal", copy / "jobs.db-wal");
      fs::resize_file(copy / "jobs.db-wal", wal - lost);
    }
  }
  const auto whole = open("copy-0");
  EXPECT_EQ(whole->events("a", 1, 100)->size(), 50U);
  for (const auto& entry : fs::directory_iterator(dir_.path())) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("copy-", 0) != 0 || name == "copy-0") continue;
    const auto store = open(name);
    // A state of some moment: job and events agree.
    const auto events = store->events("a", 1, 100);
    ASSERT_TRUE(events.ok());
    ASSERT_FALSE(events->empty()) << name;
    EXPECT_EQ(store->job("a")->next_sequence, events->back().sequence() + 1);
    EXPECT_EQ(events->back().sequence(), static_cast<int64_t>(events->size()));
  }
}

TEST_F(JobStoreTest, RefusesANewerSchema) {
  open();
  sqlite3* raw = nullptr;
  ASSERT_EQ(sqlite3_open((dir_ / "state" / "jobs.db").c_str(), &raw), SQLITE_OK);
  sqlite3_exec(raw, "UPDATE meta SET value=99", nullptr, nullptr, nullptr);
  sqlite3_close(raw);
  const auto store = JobStore::open({dir_ / "state", {}});
  EXPECT_EQ(store.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(store.status().message()).find("schema version 99"), std::string::npos);
}

TEST_F(JobStoreTest, MigratesVersion1) {
  ASSERT_NO_FATAL_FAILURE(write_database("jobs_v1.sql"));
  open_twice([](JobStore& store, const JobRecord& job, int round) {
    EXPECT_EQ(job.job.name(), "old");
    EXPECT_EQ(job.next_sequence, 3);
    EXPECT_EQ(job.failures, 2);
    EXPECT_EQ(job.idle_requeues, round);
    EXPECT_EQ(store.attempts("job-1")->front().stop_reason, Finding::hang);
    const auto request = store.request("r");
    ASSERT_TRUE(request.ok() && request->has_value());
    EXPECT_LT(WallTime::clock::now() - (*request)->time, std::chrono::hours(1));  // not forgotten
    JobRecord next = job;
    next.idle_requeues = 1;
    ASSERT_TRUE(store.commit(change(next)).ok());
  });
}

TEST_F(JobStoreTest, MigratesVersion2WithItsStepsAndProgress) {
  ASSERT_NO_FATAL_FAILURE(write_database("jobs_v2.sql"));
  open_twice([](JobStore& store, const JobRecord& job, int round) {
    EXPECT_EQ(job.next_sequence, 6);
    EXPECT_EQ(job.run_time, std::chrono::seconds(12));
    EXPECT_EQ(job.job.name(), "old");
    EXPECT_EQ(job.job.resolved_spec().parallel().ranks(), 8);
    EXPECT_EQ(job.job.progress().step(), 3 + round);
    EXPECT_EQ(job.job.progress().phase(), round == 0 ? "train" : "");
    EXPECT_EQ(job.job.update_time().seconds(), 1'700'000'100);
    EXPECT_EQ(store.list({.labels = {{"team", "red"}}})->jobs.at(0).progress().step(), 3 + round);
    const auto steps = store.steps("job-1", 0, 10);
    ASSERT_TRUE(steps.ok()) << steps.status();
    ASSERT_EQ(steps->size(), 3U);
    for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(steps->at(static_cast<size_t>(i)).step(), i);
    EXPECT_EQ(steps->at(1).attempt(), 2) << "done again";
    EXPECT_EQ(steps->at(1).loss(), 0.5);
    EXPECT_TRUE(*store.has_steps("job-1", 1));
    EXPECT_EQ(store.events("job-1", 1, 10)->size(), 5U);
    JobRecord next = job;
    next.job.mutable_progress()->set_step(4);
    next.job.mutable_progress()->clear_phase();
    Change small;
    small.progress = progress_of(next);
    ASSERT_TRUE(store.commit(small).ok());
  });
}

TEST_F(JobStoreTest, ForgetsRequestsAfterAWeek) {
  const auto store = open();
  const WallTime now{std::chrono::hours(500'000)};
  const auto answer = [&](const std::string& id, WallTime time) {
    Change change;
    change.request = RequestRecord{id, "CreateJob", "h", "a", "x", time};
    ASSERT_TRUE(store->commit(change).ok());
  };
  answer("old", now);
  answer("newer", now + std::chrono::hours(1));
  answer("today", now + kRequestsKept + std::chrono::minutes(1));
  EXPECT_FALSE(store->request("old")->has_value());
  EXPECT_EQ((*store->request("newer"))->time, now + std::chrono::hours(1));
  EXPECT_TRUE(store->request("today")->has_value());
}

TEST_F(JobStoreTest, KnowsStepsOfAnAttemptAndTheLastCheckpoints) {
  const auto store = open();
  Change all = change(record("a"));
  all.events = {step_event("a", 1, 0, 2), checkpoint_event("a", 2, 4), checkpoint_event("a", 3, 12),
                checkpoint_event("a", 4, 8)};
  ASSERT_TRUE(store->commit(std::vector<Change>{all, change(record("b"))}).ok());
  EXPECT_FALSE(*store->has_steps("a", 1));
  EXPECT_TRUE(*store->has_steps("a", 2));
  const auto newest = store->last_checkpoints();
  ASSERT_EQ(newest->size(), 1U);
  EXPECT_EQ(newest->at("a").step(), 12);
}

TEST_F(JobStoreTest, AStepDoneAgainCountsWithTheNewestAttemptAndStaysInTheHistory) {
  const auto store = open();
  const std::vector<v1::Event> events = {step_event("a", 1, 2, 1), step_event("a", 2, 3, 1),
                                         event("a", 3), step_event("a", 4, 3, 2),
                                         step_event("a", 5, 4, 2)};
  ASSERT_TRUE(store->commit(change(record("a"), events)).ok());
  ASSERT_TRUE(store->commit(change(record("b"), {step_event("b", 1, 3, 9)})).ok());
  const auto steps = store->steps("a", 3, 10);
  ASSERT_EQ(steps->size(), 2U);
  EXPECT_EQ(steps->at(0).step(), 3);
  EXPECT_EQ(steps->at(0).attempt(), 2);
  EXPECT_EQ(steps->at(1).step(), 4);
  EXPECT_EQ(store->steps("a", 0, 2)->back().step(), 3) << "the limit counts steps, not events";
  const auto history = store->events("a", 2, 10);
  ASSERT_EQ(history->size(), 4U);
  EXPECT_EQ(history->front().step().attempt(), 1);
}

TEST_F(JobStoreTest, EvaluationsAndCheckpointsOfAStepDoneAgainAreTheNewest) {
  const auto store = open();
  ASSERT_TRUE(
      store
          ->commit(change(record("a"), {eval_event("a", 1, 0, 3.0), eval_event("a", 2, 8, 2.0),
                                        step_event("a", 3, 8, 1), checkpoint_event("a", 4, 8),
                                        eval_event("a", 5, 8, 1.0), eval_event("a", 6, 12, 0.5),
                                        checkpoint_event("a", 7, 8), checkpoint_event("a", 8, 12)}))
          .ok());
  const auto evals = store->evals("a", 1, 12);
  ASSERT_EQ(evals->size(), 1U);
  EXPECT_EQ(evals->front().loss(), 1.0);
  EXPECT_EQ(store->evals("a", 0, 13)->size(), 3U);
  const auto checkpoints = store->checkpoints("a", std::numeric_limits<int64_t>::max());
  ASSERT_EQ(checkpoints->size(), 2U);
  EXPECT_EQ(checkpoints->front().step(), 12) << "newest first";
  EXPECT_EQ(store->checkpoints("a", 11)->size(), 1U);
}

TEST_F(JobStoreTest, ProgressAloneLeavesTheRestOfTheJob) {
  const auto store = open();
  JobRecord job = record("a");
  (*job.job.mutable_spec()->mutable_labels())["team"] = "red";
  job.job.mutable_progress()->set_step(1);
  job.job.mutable_progress()->set_phase("train");
  ASSERT_TRUE(store->commit(change(job)).ok());
  job.job.set_name("not stored");
  job.job.mutable_progress()->set_step(2);
  job.job.mutable_progress()->clear_phase();
  job.job.mutable_update_time()->set_seconds(5);
  job.next_sequence = 8;
  job.run_time = std::chrono::seconds(3);
  Change small;
  small.progress = progress_of(job);
  ASSERT_TRUE(store->commit(small).ok());
  const auto read = store->job("a");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->job.name(), "name of a");
  EXPECT_EQ(read->job.progress().step(), 2);
  EXPECT_EQ(read->job.progress().phase(), "");
  EXPECT_EQ(read->job.update_time().seconds(), 5);
  EXPECT_EQ(read->next_sequence, 8);
  EXPECT_EQ(read->run_time, std::chrono::seconds(3));
  const auto listed = store->list({.labels = {{"team", "red"}}});
  ASSERT_EQ(listed->jobs.size(), 1U);
  EXPECT_EQ(listed->jobs[0].progress().step(), 2);
}

TEST_F(JobStoreTest, LabelsFollowTheJob) {
  const auto store = open();
  JobRecord job = record("a");
  auto& labels = *job.job.mutable_spec()->mutable_labels();
  const auto found = [&](const std::string& key, const std::string& value) {
    return store->list({.labels = {{key, value}}})->jobs.size();
  };
  labels["team"] = "red";
  labels["model"] = "tiny";
  for (int round = 0; round < 2; ++round) ASSERT_TRUE(store->commit(change(job)).ok());
  EXPECT_EQ(found("team", "red"), 1U);
  labels["team"] = "blue";
  labels.erase("model");
  ASSERT_TRUE(store->commit(change(job)).ok());
  EXPECT_EQ(found("team", "blue"), 1U);
  EXPECT_EQ(found("team", "red"), 0U);
  EXPECT_EQ(found("model", "tiny"), 0U);
}

TEST_F(JobStoreTest, WhateverTheDatabaseRefusesIsStoreFailed) {
  const auto store = open();
  Change orphan;
  orphan.cursors = {{"no such job", 1, 0, 1}};
  const Status refused = store->commit(orphan);
  EXPECT_EQ(refused.code(), StatusCode::kInternal);
  EXPECT_EQ(error_detail_of(refused).reason, "STORE_FAILED");
  EXPECT_EQ(error_detail_of(store->job("x").status()).reason, "JOB_NOT_FOUND");
  sqlite3* raw = nullptr;
  ASSERT_EQ(sqlite3_open((dir_ / "state" / "jobs.db").c_str(), &raw), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(raw, "DROP TABLE events", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(raw);
  const Status unreadable = store->checkpoints("a", 1).status();
  EXPECT_EQ(error_detail_of(unreadable).reason, "STORE_FAILED");
  EXPECT_NE(std::string(unreadable.message()).find("events"), std::string::npos);
}

TEST_F(JobStoreTest, ListsByFilterOrderAndPage) {
  const auto store = open();
  for (int i = 0; i < 6; ++i) {
    JobRecord job = record("job-" + std::to_string(i), i / 2, i % 3);  // ties in both keys
    if (i % 2 == 0) (*job.job.mutable_spec()->mutable_labels())["team"] = "red";
    if (i == 5) job.job.set_state(v1::FAILED);
    ASSERT_TRUE(store->commit(change(job)).ok());
  }
  const auto ids = [&](JobQuery query) {
    std::string all;
    query.limit = 2;
    do {
      const auto page = store->list(query);
      EXPECT_TRUE(page.ok()) << page.status();
      for (const v1::Job& job : page->jobs) all += job.id().back();
      query.after = page->next;
    } while (query.after);
    return all;
  };
  JobQuery query;
  EXPECT_EQ(ids(query), "543210");
  query.descending = false;
  EXPECT_EQ(ids(query), "012345");
  query.order = JobQuery::Order::priority;
  EXPECT_EQ(ids(query), "031425");
  query.order = JobQuery::Order::name;
  query.descending = true;
  EXPECT_EQ(ids(query), "543210");
  query.labels = {{"team", "red"}};
  EXPECT_EQ(ids(query), "420");
  query.labels = {};
  query.states = {v1::FAILED, v1::RUNNING};
  EXPECT_EQ(ids(query), "5");
  query = {};
  query.name = "name of job-3";
  EXPECT_EQ(ids(query), "3");
  EXPECT_EQ(store->unfinished_jobs()->size(), 5U);
  EXPECT_EQ(store->count_by_state()->at(v1::QUEUED), 5);
}

TEST_F(JobStoreTest, RemovingAJobKeepsItsAnsweredRequests) {
  const auto store = open();
  Change all = change(record("a"), {event("a", 1)});
  all.request = RequestRecord{"create", "CreateJob", "h", "a", "x"};
  ASSERT_TRUE(store->commit(all).ok());
  ASSERT_TRUE(store->remove_job("a", RequestRecord{"delete", "DeleteJob", "h", "a", ""}).ok());
  EXPECT_EQ(store->job("a").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(store->events("a", 1, 10)->empty());
  EXPECT_TRUE(store->request("create")->has_value());
  EXPECT_TRUE(store->request("delete")->has_value());
  EXPECT_FALSE(store->request("other")->has_value());
}

}  // namespace
}  // namespace emoe::server
