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
