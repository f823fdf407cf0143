#include "server/control/attempt_settlement.h"

#include <gtest/gtest.h>

namespace emoe::server {
namespace {

AttemptRecord ended_with(std::optional<int> code) {
  AttemptRecord attempt;
  attempt.end_code = code;
  return attempt;
}

TEST(ReportedSuccess, TrainOwesTheMergedModelItWasAskedFor) {
  v1::Job job;
  v1::Export& wanted = *job.mutable_resolved_spec()->mutable_export_();
  job.mutable_resolved_spec()->set_task("train");
  wanted.set_merged(true);
  wanted.set_verify(true);
  EXPECT_FALSE(reported_success(job, ended_with(0)));
  job.mutable_merge()->set_verified(false);
  EXPECT_FALSE(reported_success(job, ended_with(0)));
  job.mutable_merge()->set_verified(true);
  EXPECT_TRUE(reported_success(job, ended_with(0)));
  job.clear_merge();
  wanted.set_merged(false);
  EXPECT_TRUE(reported_success(job, ended_with(0)));
}

TEST(ReportedSuccess, EvaluateOwesTheLosses) {
  v1::Job job;
  job.mutable_resolved_spec()->set_task("evaluate");
  EXPECT_FALSE(reported_success(job, ended_with(0)));
  job.mutable_eval_last()->set_loss(2.5);
  EXPECT_TRUE(reported_success(job, ended_with(0)));
}

TEST(ReportedSuccess, AMergeOwesItsModelAndAConversionTheOneItWasAskedFor) {
  v1::Job job;
  v1::JobSpec& spec = *job.mutable_resolved_spec();
  spec.set_task("merge");
  spec.mutable_export_()->set_verify(true);
  EXPECT_FALSE(reported_success(job, ended_with(0)));
  spec.set_task("convert");
  spec.mutable_emoe()->set_experts(4);
  spec.mutable_export_()->set_original_order(true);
  EXPECT_TRUE(reported_success(job, ended_with(0))) << "experts alone";
  spec.mutable_export_()->set_original_order(false);
  EXPECT_FALSE(reported_success(job, ended_with(0)));
  spec.clear_emoe();
  spec.mutable_export_()->set_original_order(true);
  EXPECT_FALSE(reported_success(job, ended_with(0))) << "the way back";
  job.mutable_merge()->set_verified(true);
  EXPECT_TRUE(reported_success(job, ended_with(0)));
}

TEST(ReportedSuccess, NeedsTheWordOfRank0) {
  v1::Job job;
  job.mutable_resolved_spec()->set_task("evaluate");
  job.mutable_eval_last()->set_loss(2.5);
  EXPECT_FALSE(reported_success(job, ended_with(75)));
  EXPECT_FALSE(reported_success(job, ended_with(std::nullopt)));
}

}  // namespace
}  // namespace emoe::server
