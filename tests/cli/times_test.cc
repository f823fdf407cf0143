// Times and durations look alike in everything that emoectl shows to people.
#include <cstdlib>
#include <regex>

#include <gtest/gtest.h>

#include "cli/format.h"
#include "cli/job_view.h"
#include "cli/plan_view.h"
#include "cli/progress.h"

namespace emoe::cli {
namespace {

constexpr int64_t kThen = 1'700'000'000;                  // 2023-11-14 22:13:20 UTC
const WallTime kNow{std::chrono::seconds(kThen + 3725)};  // 1h02m later

class TimesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("TZ", "UTC", 1);
    ::tzset();
    job_.set_id("job-1");
    job_.set_state(v1::RUNNING);
    job_.mutable_create_time()->set_seconds(kThen);
    job_.mutable_start_time()->set_seconds(kThen);
    job_.mutable_progress()->set_step(3);
    job_.mutable_progress()->set_steps_planned(10);
    job_.mutable_progress()->set_eta_seconds(3725.4);
    job_.add_attempts()->mutable_start_time()->set_seconds(kThen);
    job_.mutable_measured()->set_seconds(3725.4);
    job_.mutable_plan()->mutable_memory()->set_rank_bytes(1);
    job_.mutable_plan()->mutable_work()->set_steps(10);
    job_.mutable_plan()->mutable_time()->set_seconds(3725.4);
    job_.mutable_plan()->mutable_queue()->mutable_start_time()->set_seconds(kThen + 2 * 3725);
  }
  // Nothing but the one notation; `least` durations are there.
  static void expect_alike(const std::string& text, int least) {
    static const std::regex others(
        R"(\d+ ?(seconds|minutes|hours|sec|min)\b|\d+(\.\d+)? s\b|3725|\d\d:\d\d:\d\d\.\d|\dT\d\d:|\d\d:\d\dZ)");
    std::smatch found;
    EXPECT_FALSE(std::regex_search(text, found, others)) << found.str() << " in\n" << text;
    int count = 0;
    for (size_t at = 0; (at = text.find("1h02m", at)) != std::string::npos; ++at) ++count;
    EXPECT_GE(count, least) << text;
  }
  v1::Job job_;
};

TEST_F(TimesTest, OfAJob) {
  // Created, ran for, ETA, the attempt's start, plan, planned and measured time.
  expect_alike(job_text(job_, kNow, 0), 7);
}

TEST_F(TimesTest, OfAPlan) {
  expect_alike(plan_text(job_.plan(), kNow, 0), 2);
  expect_alike(short_plan(job_.plan()), 1);
}

TEST_F(TimesTest, OfLists) {
  v1::ListJobsResponse jobs;
  *jobs.add_jobs() = job_;
  jobs.mutable_jobs(0)->mutable_progress()->set_loss(1.5);
  expect_alike(job_table(jobs, kNow, 0), 2);
  v1::ListMetricsResponse metrics;
  metrics.add_steps()->set_seconds(3725.4);
  expect_alike(metrics_table(metrics, 0), 1);
  metrics.mutable_steps(0)->set_seconds(0.1234);
  EXPECT_NE(metrics_table(metrics, 0).find(" 0.123s"), std::string::npos);
  v1::ListCheckpointsResponse checkpoints;
  checkpoints.add_checkpoints()->set_seconds(3725.4);
  checkpoints.mutable_checkpoints(0)->mutable_create_time()->set_seconds(kThen);
  expect_alike(checkpoint_table(checkpoints, kNow, 0), 2);
  v1::ServerInfo info;
  info.mutable_start_time()->set_seconds(kThen);
  expect_alike(server_text(info, kNow, 0), 1);
}

TEST_F(TimesTest, OfEventsAndTheAudit) {
  v1::Event event;
  event.mutable_time()->set_seconds(kThen);
  event.mutable_time()->set_nanos(987'000'000);
  event.mutable_state_change()->set_to(v1::QUEUED);
  EXPECT_EQ(event_line(event), "2023-11-14 22:13:20  QUEUED");
  EXPECT_EQ(time_text(event.time()), "2023-11-14 22:13:20");
  EXPECT_EQ(time_text({}), "-");
}

}  // namespace
}  // namespace emoe::cli
