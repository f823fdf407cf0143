#include "cli/job_view.h"

#include <sstream>

#include <gtest/gtest.h>

#include "cli/format.h"

namespace emoe::cli {
namespace {

const WallTime kNow{std::chrono::seconds(1'700'000'000)};

v1::Job running_job() {
  v1::Job job;
  job.set_id("job-20260131-120000-0a1b2c3d");
  job.set_name("alpaca-7b-emoe-with-a-long-name");
  job.set_state(v1::RUNNING);
  job.mutable_create_time()->set_seconds(1'700'000'000 - 200);
  job.mutable_start_time()->set_seconds(1'700'000'000 - 100);
  job.mutable_progress()->set_step(3);
  job.mutable_progress()->set_steps_planned(12);
  job.mutable_progress()->set_loss(1.5);
  job.mutable_progress()->set_eta_seconds(90);
  job.mutable_progress()->set_phase("train");
  return job;
}

TEST(JobView, ListFitsTheTerminal) {
  v1::ListJobsResponse jobs;
  *jobs.add_jobs() = running_job();
  v1::Job& queued = *jobs.add_jobs();
  queued.set_id("job-2");
  queued.set_state(v1::QUEUED);
  queued.set_queue_position(2);
  const std::string text = job_table(jobs, kNow, 80);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), 80) << line;
  EXPECT_NE(text.find("QUEUED #2"), std::string::npos) << text;
  EXPECT_NE(text.find("3/12"), std::string::npos);
  EXPECT_NE(text.find("1m30s"), std::string::npos);
  EXPECT_NE(text.find("AGE\n"), std::string::npos);
  EXPECT_NE(text.find(" 3m20s\n"), std::string::npos);
  EXPECT_NE(text.find("…"), std::string::npos);  // the long name
  for (v1::Job& job : *jobs.mutable_jobs()) job.clear_progress();
  EXPECT_EQ(job_table(jobs, kNow, 80).find("LOSS"), std::string::npos);
  EXPECT_EQ(job_table({}, kNow, 80), "no jobs\n");
}

TEST(JobView, JobShowsResultsAndAttempts) {
  v1::Job job = running_job();
  job.mutable_resolved_spec()->set_task("train");
  job.set_state(v1::SUCCEEDED);
  job.set_reason(v1::REASON_COMPLETED);
  job.mutable_end_time()->set_seconds(1'700'000'000 - 40);
  job.mutable_eval_first()->set_loss(3.0);
  job.mutable_eval_last()->set_loss_dense(2.0);
  job.mutable_merge()->set_verified(true);
  job.mutable_merge()->set_model_dir("/out/export/model");
  job.set_output_dir("/out");
  v1::Attempt& attempt = *job.add_attempts();
  attempt.set_number(1);
  attempt.set_reason(v1::REASON_PEER_LOST);
  attempt.set_message("rank 1 on host n2: killed by signal 9");
  const std::string text = job_text(job, kNow, 0);
  for (const char* part : {"SUCCEEDED COMPLETED", "ran for", "1m00s", "loss 3.0000", "dense 2.0000",
                           "verified", "/out/export/model", "PEER_LOST", "killed by signal 9"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }
  EXPECT_EQ(text.find("ETA"), std::string::npos);
}

TEST(JobView, ARunningJobHasNoEvaluationAfter) {
  v1::Job job = running_job();
  job.mutable_resolved_spec()->set_task("train");
  job.mutable_eval_first()->set_loss(3.0);
  job.mutable_eval_last()->set_loss(3.0);
  EXPECT_EQ(job_text(job, kNow, 0).find("held-out, so far"), std::string::npos);
  job.mutable_eval_last()->set_step(5);
  EXPECT_NE(job_text(job, kNow, 0).find("held-out, so far"), std::string::npos);
  EXPECT_EQ(job_text(job, kNow, 0).find("held-out, after"), std::string::npos);
}

TEST(JobView, WhoseJobItIsIsShownWhereThereAreProjects) {
  v1::ListJobsResponse jobs;
  *jobs.add_jobs() = running_job();
  EXPECT_EQ(job_table(jobs, kNow, 0).find("PROJECT"), std::string::npos);
  jobs.mutable_jobs(0)->set_project("research");
  jobs.mutable_jobs(0)->set_owner("ci");
  EXPECT_NE(job_table(jobs, kNow, 0).find("research"), std::string::npos);
  const std::string text = job_text(jobs.jobs(0), kNow, 0);
  EXPECT_NE(text.find("research"), std::string::npos);
  EXPECT_NE(text.find("ci"), std::string::npos);
}

TEST(JobView, AnExportHasNoLoss) {
  v1::ListJobsResponse jobs;
  *jobs.add_jobs() = running_job();
  jobs.mutable_jobs(0)->mutable_export_of()->set_step(3);
  EXPECT_EQ(job_table(jobs, kNow, 0).find("LOSS"), std::string::npos);
  EXPECT_EQ(job_text(jobs.jobs(0), kNow, 0).find("tok/s"), std::string::npos);
}

// A message can be read and a path copied on a narrow terminal.
TEST(JobView, AnExportTrainsNothing) {
  v1::Job job;
  job.mutable_export_of()->set_step(65);
  job.mutable_progress()->set_step(65);
  const std::string text = job_text(job, kNow, 0);
  EXPECT_NE(text.find("step 65"), std::string::npos) << text;
  EXPECT_EQ(text.find("loss"), std::string::npos) << text;
  v1::ListJobsResponse jobs;
  *jobs.add_jobs() = job;
  EXPECT_EQ(job_table(jobs, kNow, 0).find("LOSS"), std::string::npos);
}

TEST(JobView, NothingOfAJobIsCut) {
  v1::Job job = running_job();
  job.set_state(v1::FAILED);
  const std::string path = "/a/folder/with/a/rather/long/name/outputs/" + job.id();
  job.set_message("rank 1 on host n2 could not write " + path + ": no space left on device");
  job.set_output_dir(path);
  job.mutable_merge()->set_model_dir(path + "/export/model");
  job.add_attempts()->set_message(job.message());
  const std::string text = job_text(job, kNow, 60);
  EXPECT_EQ(text.find("…"), std::string::npos) << text;
  EXPECT_NE(text.find(path + "/export/model\n"), std::string::npos) << text;
  EXPECT_NE(text.find("output:    " + path + "\n"), std::string::npos) << text;
  size_t found = 0;
  for (size_t at = 0; (at = text.find("no space left", at)) != std::string::npos; ++at) ++found;
  EXPECT_EQ(found, 2u) << text;  // of the job and of its attempt
}

TEST(JobView, AnEvaluationHasOneResultAndNoSteps) {
  v1::Job job;
  job.mutable_resolved_spec()->set_task("evaluate");
  job.mutable_eval_first()->set_loss_dense(2.0);
  job.mutable_eval_last()->set_loss_dense(2.0);
  const std::string text = job_text(job, kNow, 0);
  EXPECT_NE(text.find("held-out: "), std::string::npos) << text;
  EXPECT_EQ(text.find("held-out, "), std::string::npos) << text;
  v1::ListMetricsResponse metrics;
  metrics.add_evals()->set_perplexity(12.0);
  const std::string table = metrics_table(metrics, 0);
  EXPECT_TRUE(table.starts_with("AFTER STEPS")) << table;
}

v1::EvalResult evaluation(int64_t step, double accuracy) {
  v1::EvalResult eval;
  eval.set_step(step);
  eval.set_loss(3 - accuracy);
  eval.set_target_tokens(7);
  v1::SuiteScores& suite = *eval.mutable_suite();
  suite.set_suite("mmlu");
  suite.set_split("test");
  suite.set_shots(5);
  suite.set_scored(40);
  suite.set_accuracy(accuracy);
  v1::SubjectScore& subject = *suite.add_subjects();
  subject.set_name("anatomy");
  subject.set_scored(10);
  subject.set_accuracy(accuracy / 2);
  suite.add_subjects()->set_name("too_long");
  return eval;
}

TEST(JobView, ASuiteHasATableBeforeAndAfter) {
  v1::Job job = running_job();
  job.mutable_resolved_spec()->set_task("train");
  *job.mutable_eval_first() = evaluation(0, 0.25);
  *job.mutable_eval_last() = evaluation(8, 0.5);
  const std::string text = job_text(job, kNow, 0);
  const auto expect_line = [&](const std::string& words) {
    std::string squeezed;
    for (const char c : text) {
      if (c != ' ' || squeezed.empty() || squeezed.back() != ' ') squeezed += c;
    }
    EXPECT_NE(squeezed.find(words), std::string::npos) << words << " in\n" << text;
  };
  expect_line("mmlu/test, 5 shots, 40 questions BEFORE AFTER CHANGE\n");
  expect_line("held-out loss 2.7500 2.5000 -0.2500");
  expect_line("\nmmlu 25.00 % 50.00 % +25.00 %");
  expect_line("anatomy 12.50 % 25.00 % +12.50 %");
  expect_line("too_long - - -");
  job.mutable_resolved_spec()->set_task("evaluate");
  EXPECT_EQ(job_text(job, kNow, 0).find("BEFORE"), std::string::npos);
  EXPECT_NE(job_text(job, kNow, 0).find("RESULT"), std::string::npos);
  v1::ListMetricsResponse metrics;
  *metrics.add_evals() = evaluation(8, 0.5);
  EXPECT_NE(metrics_table(metrics, 0).find("50.00 %"), std::string::npos);
}

TEST(JobView, MetricsCheckpointsAndServer) {
  v1::ListMetricsResponse metrics;
  EXPECT_EQ(metrics_table(metrics, 0), "no steps yet\n");
  auto& step = *metrics.add_steps();
  step.set_loss(2.5);
  step.set_tokens(500);
  step.set_seconds(0.25);
  metrics.add_evals()->set_perplexity(12.0);
  EXPECT_NE(metrics_table(metrics, 0).find("2.0k"), std::string::npos);
  EXPECT_NE(metrics_table(metrics, 0).find("12.0000"), std::string::npos);
  v1::ListCheckpointsResponse checkpoints;
  auto& checkpoint = *checkpoints.add_checkpoints();
  checkpoint.set_step(50);
  checkpoint.set_bytes(2048);
  EXPECT_NE(checkpoint_table(checkpoints, kNow, 0).find("2.0 KiB"), std::string::npos);
  v1::ServerInfo info;
  info.set_slots_total(4);
  info.set_slots_free(1);
  (*info.mutable_jobs_by_state())["RUNNING"] = 3;
  EXPECT_NE(server_text(info, kNow, 0).find("1 free of 4"), std::string::npos);
  EXPECT_NE(server_text(info, kNow, 0).find("3 RUNNING"), std::string::npos);
}

void expect_known_types(const google::protobuf::Descriptor& type) {
  using google::protobuf::FieldDescriptor;
  for (int i = 0; i < type.field_count(); ++i) {
    const auto cpp_type = type.field(i)->cpp_type();
    EXPECT_TRUE(cpp_type != FieldDescriptor::CPPTYPE_UINT32 &&
                cpp_type != FieldDescriptor::CPPTYPE_UINT64 &&
                cpp_type != FieldDescriptor::CPPTYPE_FLOAT)
        << type.field(i)->full_name() << ": value_of() in config/field.cc has no case for it";
  }
  for (int i = 0; i < type.nested_type_count(); ++i) expect_known_types(*type.nested_type(i));
}

TEST(JobView, EveryFieldOfTheServiceCanBeShownAsJsonAndYaml) {
  const auto* service = v1::ListJobsResponse::descriptor()->file();
  for (int i = -1; i < service->dependency_count(); ++i) {
    const auto* file = i < 0 ? service : service->dependency(i);
    for (int j = 0; j < file->message_type_count(); ++j) expect_known_types(*file->message_type(j));
  }
}

}  // namespace
}  // namespace emoe::cli
