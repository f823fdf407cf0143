// The store's folder and files: whose they are, and what is refused.
#include <fstream>

#include <gtest/gtest.h>

#include "server/job/job_store.h"
#include "server/job/sqlite.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

class JobStoreFilesTest : public ::testing::Test {
 protected:
  std::unique_ptr<JobStore> open(const std::string& folder = "state") {
    auto store = JobStore::open({dir_ / folder, {}});
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  static Change a_job(const std::string& id) {
    Change change;
    change.job.emplace();
    change.job->job.set_id(id);
    change.job->job.set_state(v1::QUEUED);
    return change;
  }
  testing::TempDir dir_;
};

TEST_F(JobStoreFilesTest, ANewFolderIsItsOwnersAlone) {
  open("some/where/");
  EXPECT_EQ(fs::status(dir_ / "some" / "where").permissions(), fs::perms::owner_all);
  fs::create_directories(dir_ / "given");
  fs::permissions(dir_ / "given", fs::perms::owner_all | fs::perms::group_read);
  open("given");  // somebody decided so
  EXPECT_EQ(fs::status(dir_ / "given").permissions(), fs::perms::owner_all | fs::perms::group_read);
}

TEST_F(JobStoreFilesTest, TheDatabaseIsItsOwnersAloneInAnyFolder) {
  constexpr fs::perms kOwners = fs::perms::owner_read | fs::perms::owner_write;
  fs::create_directories(dir_ / "given");
  const fs::path database = dir_ / "given" / "jobs.db";
  {
    const auto store = open("given");
    EXPECT_EQ(fs::status(database).permissions(), kOwners);
  }
  fs::permissions(database, kOwners | fs::perms::group_read);  // as older versions left it
  const auto store = open("given");
  ASSERT_TRUE(store->commit(a_job("job-1")).ok());
  for (const char* suffix : {"", "-wal", "-shm"}) {
    EXPECT_EQ(fs::status(database.string() + suffix).permissions(), kOwners) << suffix;
  }
}

TEST_F(JobStoreFilesTest, RefusesADamagedFile) {
  fs::create_directories(dir_ / "state");
  std::ofstream(dir_ / "state" / "jobs.db") << std::string(8192, 'x');
  const Status no_database = JobStore::open({dir_ / "state", {}}).status();
  EXPECT_EQ(no_database.code(), StatusCode::kDataLoss);
  const std::string said(no_database.message());
  EXPECT_TRUE(said.starts_with((dir_ / "state" / "jobs.db").string())) << said;
  EXPECT_NE(said.find("put a backup in its place, or move it"), std::string::npos) << said;
  {
    const auto store = open("holes");
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(store->commit(a_job("job-" + std::to_string(i))).ok());
    }
  }
  {
    std::fstream file(dir_ / "holes" / "jobs.db", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4096);
    file << std::string(8192, '\x5a');
  }
  const auto damaged = JobStore::open({dir_ / "holes", {}});
  EXPECT_EQ(damaged.status().code(), StatusCode::kDataLoss);
  EXPECT_NE(std::string(damaged.status().message()).find("jobs.db"), std::string::npos);
}

TEST_F(JobStoreFilesTest, RefusesTheDatabaseOfAnotherProgramAndLeavesItAlone) {
  for (const std::string table : {"notes(text)", "meta(x, y)", "jobs(id)"}) {
    const fs::path folder = dir_ / table.substr(0, 4);
    fs::create_directories(folder);
    {
      auto other = Database::open(folder / "jobs.db", Database::Mode::read_write);
      ASSERT_TRUE((*other)->execute("CREATE TABLE " + table).ok());
    }
    const Status status = JobStore::open({folder, {}}).status();
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition) << table;
    EXPECT_EQ(std::string(status.message()),
              (folder / "jobs.db").string() +
                  ": is the database of another program; use another --state-dir");
    auto other = Database::open(folder / "jobs.db", Database::Mode::read_write);
    Statement tables(**other, "SELECT count(*) FROM sqlite_master");
    ASSERT_TRUE(tables.next());
    EXPECT_EQ(tables.integer(0), 1) << table;
  }
}

TEST_F(JobStoreFilesTest, RefusesAFolderThatCannotBeMade) {
  std::ofstream(dir_ / "file") << "x";
  const auto store = JobStore::open({dir_ / "file" / "state", {}});
  ASSERT_FALSE(store.ok());
  EXPECT_NE(std::string(store.status().message()).find("file/state"), std::string::npos);
}

TEST_F(JobStoreFilesTest, OneCoordinatorPerFolder) {
  const auto first = open();
  EXPECT_EQ(JobStore::open({dir_ / "state", {}}).status().code(), StatusCode::kAborted);
}

}  // namespace
}  // namespace emoe::server
