#include "server/control/project_quota.h"
#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

class QuotaTest : public ControllerTest {
 protected:
  void SetUp() override {
    config_.capacity.cpus = 8;
    config_.quotas = {{"small", {.slots = 2, .queued_jobs = 3, .disk = 0}},
                      {"", {.slots = 0, .queued_jobs = 4, .disk = 0}}};
    config_.max_jobs = 100;
    start_controller();
  }
  Result<v1::Job> create_in(const std::string& project, int ranks = 1) {
    const v1::JobSpec spec = small_spec(dir_.path(), ranks);
    return controller_->create({.spec = spec,
                                .resolved = config::resolve(spec),
                                .by = {.project = project, .owner = "ann", .allowed_roots = {}}},
                               {});
  }
  std::string submit_in(const std::string& project, int ranks = 1) {
    const auto job = create_in(project, ranks);
    EXPECT_TRUE(job.ok()) << job.status();
    clock_.advance(std::chrono::milliseconds(1));  // the queue's order is that of their times
    return job.ok() ? job->id() : "";
  }
};

TEST_F(QuotaTest, AProjectRunsInItsSlotsAndTheRestWaits) {
  const std::string first = submit_in("small");
  const std::string second = submit_in("small");
  const std::string third = submit_in("small");
  const std::string other = submit_in("large", 4);
  step();
  EXPECT_EQ(job(first).state(), v1::STARTING);
  EXPECT_EQ(job(second).state(), v1::STARTING);
  EXPECT_EQ(job(other).state(), v1::STARTING) << "another project is not held up";
  const v1::Job waits = job(third);
  EXPECT_EQ(waits.state(), v1::QUEUED);
  EXPECT_NE(waits.message().find("may use 2 slots at once"), std::string::npos) << waits.message();
  EXPECT_EQ(waits.queue_position(), 1);
  auto channel = join(first, 0, 1);
  finish_well(first, channel, 1);
  step();
  EXPECT_EQ(job(third).state(), v1::STARTING);
}

TEST_F(QuotaTest, ANarrowJobDoesNotOvertakeAWideOneOfItsProject) {
  const std::string first = submit_in("small", 1);
  const std::string wide = submit_in("small", 2);
  const std::string narrow = submit_in("small", 1);
  step();
  EXPECT_EQ(job(first).state(), v1::STARTING);
  EXPECT_EQ(job(wide).state(), v1::QUEUED);
  EXPECT_EQ(job(narrow).state(), v1::QUEUED);
}

TEST_F(QuotaTest, MoreUnfinishedJobsAreRefused) {
  for (int i = 0; i < 3; ++i) submit_in("small");
  const Status refused = create_in("small").status();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(error_detail_of(refused).reason, "QUOTA_EXCEEDED");
  EXPECT_EQ(error_detail_of(refused).metadata.at("quota"), "projects/small/queued_jobs");
  EXPECT_EQ(error_detail_of(refused).metadata.at("retry_milliseconds"), "30000");
  for (int i = 0; i < 4; ++i) submit_in("large");  // by the quota of all others
  EXPECT_FALSE(create_in("large").ok());
  EXPECT_TRUE(create_in("third").ok()) << "each of them has it for itself";
}

TEST_F(QuotaTest, AJobThatCouldNeverStartIsRefused) {
  const ErrorDetail refused = error_detail_of(create_in("small", 3).status());
  EXPECT_EQ(refused.reason, "QUOTA_EXCEEDED");
  EXPECT_EQ(refused.metadata.count("retry_milliseconds"), 0u) << "it would be refused again";
}

TEST_F(QuotaTest, TheProjectIsKeptWithTheJobOverARestart) {
  const std::string id = submit_in("small");
  restart();
  EXPECT_EQ(job(id).project(), "small");
  EXPECT_EQ(store_->project_of(id).value(), std::optional<std::string>("small"));
  EXPECT_EQ(store_->project_of("no-job").value(), std::nullopt);
  JobQuery query;
  query.visible_project = "large";
  EXPECT_TRUE(store_->list(query)->jobs.empty());
  query.visible_project = "small";
  EXPECT_EQ(store_->list(query)->jobs.size(), 1U);
  EXPECT_EQ(store_->output_folders("small")->size(), 1U);
  EXPECT_TRUE(store_->count_by_state("large")->empty());
}

TEST(ProjectQuota, BytesOfAFileWithTwoNamesCountOnce) {
  testing::TempDir dir;
  const auto a = dir.path() / "a";
  std::filesystem::create_directory(a);
  ASSERT_TRUE(write_file_atomically(a / "one", std::string(1000, 'x')).ok());
  std::filesystem::create_hard_link(a / "one", a / "two");
  std::filesystem::create_symlink(a / "one", a / "three");
  EXPECT_EQ(bytes_below({a, dir.path() / "missing"}), 1000);
}

}  // namespace
}  // namespace emoe::server
