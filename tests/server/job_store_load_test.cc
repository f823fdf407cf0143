// The store under load: lists by any combination, forgetting, copies, room given back.
#include <algorithm>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/sha256.h"
#include "server/job/errors.h"
#include "server/job/job_state_machine.h"
#include "server/job/job_store.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

class JobStoreLoadTest : public ::testing::Test {
 protected:
  std::unique_ptr<JobStore> open(const std::string& folder = "state") {
    auto store = JobStore::open({.state_dir = dir_ / folder});
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  static JobRecord record(int number) {
    constexpr std::array kStates = {v1::QUEUED, v1::RUNNING, v1::PAUSED, v1::SUCCEEDED, v1::FAILED};
    JobRecord record;
    v1::Job& job = record.job;
    job.set_id("job-" + std::to_string(10'000 + number));
    job.set_name("name-" + std::to_string(number % 3));
    job.set_state(kStates.at(static_cast<size_t>(number) % kStates.size()));
    job.set_priority(number % 4 - 1);
    job.mutable_create_time()->set_seconds(1000 + number / 7);
    if (is_terminal(job.state())) job.mutable_end_time()->set_seconds(5000 + number);
    (*job.mutable_spec()->mutable_labels())["team"] = number % 2 == 0 ? "red" : "blue";
    if (number % 10 == 0) (*job.mutable_spec()->mutable_labels())["rare"] = "yes";
    return record;
  }
  static Change change(const JobRecord& record, int events = 0) {
    Change change;
    change.job = record;
    for (int i = 1; i <= events; ++i) {
      v1::Event& event = change.events.emplace_back();
      event.set_job_id(record.job.id());
      event.set_sequence(i);
      event.mutable_log()->set_text(std::string(2000, 'x'));
    }
    return change;
  }
  testing::TempDir dir_;
};

std::string key_of(const v1::Job& job, JobQuery::Order order) {
  if (order == JobQuery::Order::name) return job.name();
  if (order == JobQuery::Order::priority) return std::to_string(job.priority() + 50);
  return std::to_string(job.create_time().seconds());
}

// What list() must answer, in all pages.
std::vector<std::string> sorted_ids(std::vector<v1::Job> jobs, const JobQuery& query) {
  std::erase_if(jobs, [&](const v1::Job& job) {
    const auto& labels = job.spec().labels();
    const bool state = query.states.empty() || std::ranges::count(query.states, job.state()) > 0;
    const bool name = !query.name || job.name() == *query.name;
    const bool id = !query.id_prefix || job.id().starts_with(*query.id_prefix);
    const bool all = std::ranges::all_of(query.labels, [&](const auto& label) {
      return labels.contains(label.first) && labels.at(label.first) == label.second;
    });
    return !state || !name || !id || !all;
  });
  std::ranges::sort(jobs, [&](const v1::Job& a, const v1::Job& b) {
    const auto left = std::pair(key_of(a, query.order), a.id());
    const auto right = std::pair(key_of(b, query.order), b.id());
    return query.descending ? right < left : left < right;
  });
  std::vector<std::string> ids;
  for (const v1::Job& job : jobs) ids.push_back(job.id());
  return ids;
}

std::vector<std::string> listed_ids(JobStore& store, JobQuery query) {
  query.limit = 7;
  std::vector<std::string> ids;
  do {
    const auto page = store.list(query);
    EXPECT_TRUE(page.ok()) << page.status();
    if (!page.ok()) return ids;
    for (const v1::Job& job : page->jobs) ids.push_back(job.id());
    query.after = page->next;
  } while (query.after);
  return ids;
}

TEST_F(JobStoreLoadTest, ListsEveryCombinationInOrder) {
  const auto store = open();
  std::vector<v1::Job> jobs;
  std::vector<Change> changes;
  for (int i = 0; i < 120; ++i) {
    jobs.push_back(record(i).job);
    changes.push_back(change(record(i)));
  }
  ASSERT_TRUE(store->commit(changes).ok());
  const std::vector<std::vector<v1::JobState>> states{
      {}, {v1::QUEUED}, {v1::FAILED, v1::RUNNING, v1::FAILED}};
  const std::vector<std::map<std::string, std::string>> labels{
      {}, {{"team", "red"}}, {{"rare", "yes"}, {"team", "red"}}, {{"team", "green"}}};
  for (const auto order :
       {JobQuery::Order::create_time, JobQuery::Order::priority, JobQuery::Order::name}) {
    for (const bool descending : {false, true}) {
      for (const auto& wanted : states) {
        for (const auto& label : labels) {
          JobQuery query{
              .states = wanted, .labels = label, .order = order, .descending = descending};
          EXPECT_EQ(listed_ids(*store, query), sorted_ids(jobs, query));
          query.name = "name-1";
          EXPECT_EQ(listed_ids(*store, query), sorted_ids(jobs, query));
          query.id_prefix = "job-1001";
          EXPECT_EQ(listed_ids(*store, query), sorted_ids(jobs, query));
          query.name.reset();
          EXPECT_EQ(listed_ids(*store, query), sorted_ids(jobs, query));
        }
      }
    }
  }
}

TEST_F(JobStoreLoadTest, WordsOfSqlArePreparedOnce) {
  auto opened = Database::open(dir_ / "words.db", Database::Mode::read_write);
  ASSERT_TRUE(opened.ok()) << opened.status();
  Database& database = **opened;
  ASSERT_TRUE(database.execute("CREATE TABLE t(x INTEGER)").ok());
  for (int i = 0; i < 10; ++i) {
    Transaction transaction(database);
    ASSERT_TRUE(transaction.begun().ok());
    const std::string words = "INSERT INTO t VALUES(?)";  // equal, not the same
    ASSERT_TRUE(Statement(database, words).bind(i).run().ok());
    ASSERT_TRUE(transaction.commit().ok());
  }
  EXPECT_EQ(database.preparations(), 3) << "BEGIN, INSERT, COMMIT";
  // One that is in use is prepared again, and both work.
  Statement outer(database, "SELECT x FROM t ORDER BY x");
  ASSERT_TRUE(outer.next());
  {
    Statement inner(database, "SELECT x FROM t ORDER BY x");
    ASSERT_TRUE(inner.next());
    ASSERT_TRUE(inner.next());
    EXPECT_EQ(inner.integer(0), 1);
  }
  ASSERT_TRUE(outer.next());
  EXPECT_EQ(outer.integer(0), 1);
  EXPECT_EQ(database.preparations(), 5);
}

// What is stored of a new job is what is stored of any other.
TEST_F(JobStoreLoadTest, ANewJobIsStoredAsAnyOther) {
  const auto store = open();
  Change plain;
  plain.job = record(1);
  plain.job->job.mutable_update_time()->set_seconds(77);
  ASSERT_TRUE(store->commit(plain).ok());
  Change fresh;
  fresh.job = record(2);
  fresh.job->job.mutable_spec()->clear_labels();
  (*fresh.job->job.mutable_spec()->mutable_labels())["team"] = "green";
  fresh.progress = progress_of(*plain.job);
  fresh.progress->job_id = fresh.job->job.id();
  fresh.fresh_body = fresh.job->job.SerializeAsString();
  ASSERT_TRUE(store->commit(fresh).ok());
  const auto stored = store->job(fresh.job->job.id());
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(stored->job.update_time().seconds(), 77);
  EXPECT_EQ(stored->job.name(), fresh.job->job.name());
  EXPECT_EQ(store->list({.labels = {{"team", "green"}}})->jobs.size(), 1U);
  EXPECT_FALSE(store->commit(fresh).ok()) << "it is there already";
  const auto tail = store->tail(plain.job->job.id());
  ASSERT_TRUE(tail.ok());
  EXPECT_EQ(tail->state, plain.job->job.state());
  EXPECT_EQ(tail->next_sequence, plain.job->next_sequence);
  EXPECT_EQ(error_detail_of(store->tail("none").status()).reason, "JOB_NOT_FOUND");
}

TEST_F(JobStoreLoadTest, GivesTheQueueWithoutTheBodies) {
  const auto store = open();
  JobRecord waits = record(0);
  waits.job.mutable_resolved_spec()->mutable_parallel()->set_ranks(4);
  waits.job.mutable_resolved_spec()->mutable_parallel()->set_min_ranks(2);
  waits.job.mutable_resolved_spec()->mutable_train()->set_global_batch(32);
  waits.job.mutable_resolved_spec()->mutable_resources()->set_device("cpu");
  waits.job.mutable_plan()->mutable_time()->set_seconds(90);
  JobRecord again = record(5);
  again.not_before = WallTime(std::chrono::hours(1));
  JobRecord runs = record(1);
  ASSERT_TRUE(store
                  ->commit(std::vector<Change>{change(waits), change(again), change(runs),
                                               change(record(2)), change(record(3))})
                  .ok());
  std::map<std::string, QueuedRow> rows;
  ASSERT_TRUE(store->queued_jobs([&](const QueuedRow& row) { rows[row.id] = row; }).ok());
  ASSERT_EQ(rows.size(), 2U);
  const QueuedRow& row = rows.at(waits.job.id());
  EXPECT_EQ(row.ranks, 4);
  EXPECT_EQ(row.min_ranks, 2);
  EXPECT_EQ(row.batch, 32);
  EXPECT_TRUE(row.on_cpu);
  EXPECT_EQ(row.seconds, 90.0);
  EXPECT_EQ(row.priority, waits.job.priority());
  EXPECT_EQ(row.create_time, queued_row(waits.job).create_time);
  const auto resident = store->resident_jobs();
  ASSERT_TRUE(resident.ok());
  ASSERT_EQ(resident->size(), 2U) << "the one that runs and the one that was started before";
}

TEST_F(JobStoreLoadTest, ForgetsInSmallPiecesAndGivesTheRoomBack) {
  const auto store = open();
  for (int i = 0; i < 40; ++i) {
    JobRecord ended = record(i);
    ended.job.set_state(v1::SUCCEEDED);
    ended.job.mutable_end_time()->set_seconds(5000 + i);
    ASSERT_TRUE(store->commit(change(ended, 50)).ok());
  }
  const auto file = dir_ / "state" / "jobs.db";
  ASSERT_TRUE(store->checkpoint().ok());
  const auto old = store->ended_before(WallTime(std::chrono::seconds(5030)), 100);
  ASSERT_EQ(old->size(), 30U);
  EXPECT_EQ(old->front(), record(0).job.id()) << "who ended first goes first";
  EXPECT_EQ(store->ended_before(WallTime(std::chrono::seconds(5030)), 4)->size(), 4U);
  for (const std::string& id : *old) {
    EXPECT_EQ(*store->remove_events(id, 30), 30);
    EXPECT_EQ(*store->remove_events(id, 30), 20);
    ASSERT_TRUE(store->remove_job(id, {}).ok());
  }
  EXPECT_TRUE(store->ended_before(WallTime(std::chrono::seconds(5030)), 100)->empty());
  int rounds = 1;
  for (auto more = store->tidy(100); *more; more = store->tidy(100)) ++rounds;
  EXPECT_GT(rounds, 3);
  store->backup(WallTime(std::chrono::hours(1))).IgnoreError();
  // What is free is used again: the file does not grow with each generation.
  const auto used = fs::file_size(file) + fs::file_size(dir_ / "state" / "jobs.db-wal");
  for (int generation = 0; generation < 5; ++generation) {
    for (int i = 100; i < 130; ++i) {
      ASSERT_TRUE(store->commit(change(record(i), 50)).ok());
      ASSERT_TRUE(store->remove_job(record(i).job.id(), {}).ok());
    }
  }
  EXPECT_LT(fs::file_size(file), 2 * used);
}

TEST_F(JobStoreLoadTest, ACopyMadeWhileOthersWriteCanTakeItsPlace) {
  Backup copy;
  {
    const auto store = open();
    ASSERT_TRUE(store->commit(change(record(0), 3)).ok());
    std::jthread writer([&](const std::stop_token& stop) {
      for (int i = 1; !stop.stop_requested(); ++i) {
        EXPECT_TRUE(store->commit(change(record(i), 2)).ok());
      }
    });
    const auto made = store->backup(WallTime(std::chrono::hours(500'000)));
    writer = {};
    ASSERT_TRUE(made.ok()) << made.status();
    copy = *made;
    EXPECT_EQ(copy.path, dir_ / "state" / "backups" / "jobs-20270115-080000.db");
    EXPECT_EQ(copy.bytes, static_cast<int64_t>(fs::file_size(copy.path)));
    EXPECT_EQ(copy.sha256, *sha256_of_file(copy.path));
    EXPECT_EQ(*read_file(copy.path.string() + ".sha256"),
              copy.sha256 + "  jobs-20270115-080000.db\n");
    EXPECT_EQ(fs::status(copy.path).permissions(), fs::perms::owner_read | fs::perms::owner_write);
    const auto second = store->backup(WallTime(std::chrono::hours(500'000)));
    EXPECT_EQ(second->path.filename(), "jobs-20270115-080000-2.db");
  }
  fs::create_directories(dir_ / "restored");
  fs::copy_file(copy.path, dir_ / "restored" / "jobs.db");
  const auto restored = open("restored");
  // A state of some moment: every job has all of its events.
  for (int i = 0; i < 1'000'000; ++i) {
    const auto job = restored->job(record(i).job.id());
    if (!job.ok()) {
      EXPECT_GT(i, 0);
      break;
    }
    EXPECT_EQ(restored->events(record(i).job.id(), 1, 10)->size(), i == 0 ? 3U : 2U);
  }
  ASSERT_TRUE(restored->commit(change(record(2'000'000))).ok());
}

}  // namespace
}  // namespace emoe::server
