#include "server/job/admission_cache.h"

#include <fstream>

#include <gtest/gtest.h>

#include "tests/server/support.h"

namespace emoe::server {
namespace {

using std::chrono::hours;
using std::chrono::seconds;

class AdmissionCacheTest : public ::testing::Test {
 protected:
  AdmissionCacheTest() {
    write_inputs(dir_.path());
    // An hour after the files were written.
    clock_.jump_wall(WallTime::clock::now() + hours(1) - clock_.wall_now());
  }
  v1::JobSpec admit(const v1::JobSpec& spec, Diagnostics& diagnostics) {
    found_ = {};
    return cache_.admit(spec, {}, diagnostics, &found_);
  }
  v1::JobSpec admit(const v1::JobSpec& spec) {
    Diagnostics diagnostics;
    v1::JobSpec resolved = admit(spec, diagnostics);
    EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
    return resolved;
  }
  void append_row(const std::string& row) {
    std::ofstream(dir_ / "train.jsonl", std::ios::app) << row << "\n";
    clock_.advance(seconds(1));  // so long files are not looked at again
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  AdmissionCache cache_{AdmissionConfig{}, clock_, seconds(10)};
  Findings found_;
};

TEST_F(AdmissionCacheTest, FindsTheSameForTheSameSpec) {
  const v1::JobSpec spec = small_spec(dir_.path());
  const v1::JobSpec resolved = admit(spec);
  const Findings first = found_;
  EXPECT_EQ(cache_.hits(), 0);
  EXPECT_EQ(admit(spec).SerializeAsString(), resolved.SerializeAsString());
  EXPECT_EQ(cache_.hits(), 1);
  EXPECT_EQ(found_.data.SerializeAsString(), first.data.SerializeAsString());
  EXPECT_EQ(found_.plan.SerializeAsString(), first.plan.SerializeAsString());
  v1::JobSpec other = spec;
  other.mutable_train()->set_max_steps(3);
  EXPECT_EQ(admit(other).train().max_steps(), 3);
  EXPECT_EQ(cache_.hits(), 1);
}

// Without a look at any file, as long as it is what admit() would find.
TEST_F(AdmissionCacheTest, RecallsWhatItKnows) {
  v1::JobSpec spec = small_spec(dir_.path());
  (*spec.mutable_labels())["team"] = "red";
  EXPECT_FALSE(cache_.recall(spec, {})) << "nothing was read yet";
  (void)admit(spec);
  for (const std::string name : {"small", "another"}) {
    spec.set_name(name);
    spec.mutable_labels()->clear();
    (*spec.mutable_labels())[name] = "blue";
    const auto recalled = cache_.recall(spec, {});
    ASSERT_TRUE(recalled.has_value());
    v1::Job own;
    *own.mutable_resolved_spec() = recalled->resolved;
    *own.mutable_data() = recalled->found.data;
    *own.mutable_plan() = recalled->found.plan;
    v1::Job job;
    ASSERT_TRUE(job.ParseFromString(*recalled->common + own.SerializeAsString()));
    v1::JobSpec resolved = admit(spec);
    EXPECT_EQ(job.resolved_spec().DebugString(), resolved.DebugString());
    EXPECT_EQ(job.data().DebugString(), found_.data.DebugString());
    EXPECT_EQ(job.plan().DebugString(), found_.plan.DebugString());
    EXPECT_EQ(resolved.labels().size(), 1U);
    const QueuedRow row = queued_row(job);
    const QueuedRow known = queued_row(own);
    EXPECT_EQ(row.ranks, known.ranks);
    EXPECT_EQ(row.batch, known.batch);
    EXPECT_EQ(row.on_cpu, known.on_cpu);
    EXPECT_EQ(row.seconds, known.seconds);
  }
  EXPECT_FALSE(cache_.recall(spec, {dir_.path()})) << "other folders";
  v1::JobSpec wrong = spec;
  wrong.mutable_resources()->set_priority(1'000'000'000);
  EXPECT_FALSE(cache_.recall(wrong, {})) << "admit() says what is wrong";
  append_row(R"({"instruction": "b", "input": "", "output": "c"})");
  EXPECT_FALSE(cache_.recall(spec, {})) << "files are to be looked at";
}

TEST_F(AdmissionCacheTest, NamesAndPlacesDifferAndAreChecked) {
  v1::JobSpec spec = small_spec(dir_.path());
  (void)admit(spec);
  spec.set_name("another");
  (*spec.mutable_labels())["team"] = "red";
  spec.mutable_resources()->set_priority(7);
  const v1::JobSpec resolved = admit(spec);
  EXPECT_EQ(cache_.hits(), 1);
  EXPECT_EQ(resolved.name(), "another");
  EXPECT_EQ(resolved.labels().at("team"), "red");
  EXPECT_EQ(resolved.resources().priority(), 7);
  Diagnostics fresh;
  EXPECT_EQ(admit(spec).SerializeAsString(),
            server::admit(spec, AdmissionConfig{}, fresh).SerializeAsString());
  spec.mutable_resources()->set_priority(1'000'000'000);
  Diagnostics problems;
  (void)admit(spec, problems);
  ASSERT_EQ(problems.violations().size(), 1U);
  EXPECT_EQ(problems.violations()[0].field, "resources.priority");
}

TEST_F(AdmissionCacheTest, SeesThatAFileHasChanged) {
  const v1::JobSpec spec = small_spec(dir_.path());
  (void)admit(spec);
  append_row(R"({"instruction": "more", "input": "", "output": "b"})");
  (void)admit(spec);
  EXPECT_EQ(cache_.hits(), 0);
  EXPECT_EQ(found_.data.rows(), 9);
  append_row("no row");
  Diagnostics problems;
  (void)admit(spec, problems);
  EXPECT_FALSE(problems.empty());
  EXPECT_EQ(cache_.hits(), 0);
}

TEST_F(AdmissionCacheTest, TrustsNoFileThatWasWrittenJustNow) {
  clock_.jump_wall(-hours(1));
  const v1::JobSpec spec = small_spec(dir_.path());
  (void)admit(spec);
  (void)admit(spec);
  EXPECT_EQ(cache_.hits(), 0);
}

TEST_F(AdmissionCacheTest, ReadsAnewAfterItsLifetime) {
  const v1::JobSpec spec = small_spec(dir_.path());
  (void)admit(spec);
  clock_.advance(seconds(9));
  (void)admit(spec);
  EXPECT_EQ(cache_.hits(), 1);
  clock_.advance(seconds(2));
  (void)admit(spec);
  EXPECT_EQ(cache_.hits(), 1);
  (void)admit(spec);
  EXPECT_EQ(cache_.hits(), 2);
}

}  // namespace
}  // namespace emoe::server
