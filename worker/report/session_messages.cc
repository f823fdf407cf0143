#include "worker/report/session_messages.h"

#include <cmath>
#include <sstream>

#include <google/protobuf/util/delimited_message_util.h>
#include <google/protobuf/util/time_util.h>

#include "base/utf8.h"

namespace emoe::worker {
namespace {

using google::protobuf::util::TimeUtil;

void fill(v1::CheckpointInfo& info, const CheckpointRecord& record) {
  info.set_step(record.step);
  info.set_path(record.path);
  info.set_bytes(record.bytes);
  info.set_seconds(record.seconds);
  *info.mutable_create_time() = TimeUtil::NanosecondsToTimestamp(
      std::chrono::nanoseconds(record.written.time_since_epoch()).count());
}

// Texts of errors may quote bytes of a data file, and a protobuf string must be UTF-8.
void fill(v1::LogMessage& log, v1::LogMessage::Level level, const std::string& text) {
  log.set_level(level);
  log.set_text(to_valid_utf8(text));
}

// A share of no question is shown as 0.
double share_or_zero(double share) {
  return std::isfinite(share) ? share : 0.0;
}

void fill(v1::SuiteScores& scores, const SuiteResult& trained, const SuiteResult& dense) {
  scores.set_suite(trained.suite);
  scores.set_shots(static_cast<int32_t>(trained.shots));
  scores.set_split(trained.split);
  scores.set_scored(trained.scored());
  scores.set_unscored(trained.unscored());
  scores.set_accuracy(share_or_zero(trained.accuracy()));
  scores.set_accuracy_subject_mean(share_or_zero(trained.accuracy_subject_mean()));
  scores.set_accuracy_dense(share_or_zero(dense.accuracy()));
  scores.set_accuracy_subject_mean_dense(share_or_zero(dense.accuracy_subject_mean()));
  for (size_t i = 0; i < trained.subjects.size(); ++i) {
    v1::SubjectScore& subject = *scores.add_subjects();
    subject.set_name(to_valid_utf8(trained.subjects[i].name));
    subject.set_scored(std::ssize(trained.subjects[i].questions));
    subject.set_accuracy(share_or_zero(trained.subjects[i].accuracy()));
    subject.set_accuracy_dense(share_or_zero(dense.subjects[i].accuracy()));
  }
}

}  // namespace

void fill(v1::Report& report, const StepRecord& record) {
  v1::StepMetrics& metrics = *report.mutable_step()->mutable_metrics();
  metrics.set_step(record.step);
  metrics.set_loss(record.loss);
  metrics.set_learning_rate(record.learning_rate);
  metrics.set_grad_norm(record.grad_norm);
  metrics.set_tokens(record.tokens);
  metrics.set_target_tokens(record.target_tokens);
  metrics.set_seconds(record.seconds);
  metrics.set_ranks(record.ranks);
}

void fill(v1::Report& report, const EvalRecord& record) {
  v1::EvalResult& eval = *report.mutable_eval();
  eval.set_step(record.step);
  eval.set_loss(record.loss);
  eval.set_loss_dense(record.loss_dense);
  eval.set_perplexity(record.perplexity);
  eval.set_target_tokens(record.target_tokens);
  if (record.suite != nullptr) fill(*eval.mutable_suite(), *record.suite, *record.suite_dense);
}

void fill(v1::Report& report, const CheckpointRecord& record) {
  fill(*report.mutable_checkpoint(), record);
}

void fill(v1::Report& report, const ResumeRecord& record) {
  fill(*report.mutable_resumed(), record.from);
}

void fill(v1::Report& report, const MergeRecord& record) {
  v1::MergeSummary& merge = *report.mutable_merge();
  merge.set_verified(record.verified);
  merge.set_tensors_changed(record.tensors_changed);
  merge.set_tensors_unchanged(record.tensors_unchanged);
  merge.set_max_abs_logit_difference(record.max_abs_logit_difference);
  merge.set_relative_rounding_loss(record.relative_rounding_loss);
  merge.set_model_dir(record.model_dir);
  merge.set_adapter_dir(record.adapter_dir);
}

void fill(v1::Report& report, const PreflightRecord& record) {
  v1::PreflightReport& preflight = *report.mutable_preflight();
  for (const PreflightRow& row : record.rows) {
    v1::PreflightRow& added = *preflight.add_rows();
    added.set_rank(row.rank);
    added.set_host(row.host);
    added.set_check(row.check);
    added.set_value(to_valid_utf8(row.value));
    added.set_verdict(row.verdict);
    added.set_advice(to_valid_utf8(row.advice));
  }
}

void fill(v1::Report& report, const Message& record) {
  fill(*report.mutable_log(), v1::LogMessage::INFO, record.text);
}

void fill(v1::Report& report, const Warning& record) {
  v1::Warning& warning = *report.mutable_warning();
  warning.set_code(record.code);
  warning.set_text(to_valid_utf8(record.text));
  warning.set_where(to_valid_utf8(record.where));
  warning.set_count(record.count);
  warning.set_first(to_valid_utf8(record.first));
}

void fill(v1::Report& report, const CheckpointFailure& record) {
  fill(report, record.warning);
}

void fill(v1::Report& report, const PhaseRecord& record) {
  report.mutable_phase()->set_phase(record.phase);
  report.mutable_phase()->set_steps_planned(record.steps_planned);
  report.mutable_phase()->set_percent(record.percent);
}

void fill(v1::Report& report, const EndRecord& record) {
  report.mutable_end()->set_exit_code(record.exit_code);
  report.mutable_end()->set_message(to_valid_utf8(record.message));
  if (!record.usage) return;
  v1::RankUsage& usage = *report.mutable_end()->mutable_usage();
  usage.set_rank_bytes(record.usage->rank_bytes);
  usage.set_device_bytes(record.usage->device_bytes);
  usage.set_export_bytes(record.usage->export_bytes);
  usage.set_cache_bytes(record.usage->cache_bytes);
  usage.set_machine(to_valid_utf8(record.usage->machine));
}

v1::Join to_join(const SessionClient::Config& config) {
  v1::Join join;
  join.set_job_id(config.job_id);
  join.set_attempt(config.attempt);
  join.set_token(config.token);
  v1::RankInfo& rank = *join.mutable_rank();
  rank.set_rank(config.rank);
  rank.set_world_size(config.world_size);
  rank.set_host(config.host);
  rank.set_pid(config.pid);
  rank.set_device(config.device);
  rank.set_version(config.version);
  rank.set_metrics_address(config.metrics_address);
  return join;
}

std::string to_delimited(const std::deque<v1::Report>& reports) {
  std::ostringstream text;
  for (const v1::Report& report : reports) {
    google::protobuf::util::SerializeDelimitedToOstream(report, &text);
  }
  return text.str();
}

const char* to_progress_phase(Phase phase) {
  switch (phase) {
    case Phase::prepare:
    case Phase::checkpoint:
    case Phase::export_model:
      return to_string(phase);
    case Phase::eval:
      return "evaluate";
    default:
      return "train";
  }
}

}  // namespace emoe::worker
