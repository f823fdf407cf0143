#include "worker/report/session_messages.h"

#include <sstream>

#include <google/protobuf/util/delimited_message_util.h>
#include <nlohmann/json.hpp>

namespace emoe::worker {
namespace {

// Words of errors may quote bytes of a data file; a message with text that is no UTF-8 would not be
// understood at all.
std::string to_utf8(const std::string& text) {
  using nlohmann::json;
  return json::parse(json(text).dump(-1, ' ', false, json::error_handler_t::replace));
}

v1::CheckpointInfo to_info(const CheckpointRecord& record) {
  v1::CheckpointInfo info;
  info.set_step(record.step);
  info.set_path(record.path);
  info.set_bytes(record.bytes);
  info.set_seconds(record.seconds);
  const auto nanoseconds =
      std::chrono::duration_cast<std::chrono::nanoseconds>(record.written.time_since_epoch())
          .count();
  info.mutable_create_time()->set_seconds(nanoseconds / 1'000'000'000);
  info.mutable_create_time()->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
  return info;
}

}  // namespace

v1::Report to_report(const StepRecord& record) {
  v1::Report report;
  v1::StepMetrics& metrics = *report.mutable_step()->mutable_metrics();
  metrics.set_step(record.step);
  metrics.set_loss(record.loss);
  metrics.set_learning_rate(record.learning_rate);
  metrics.set_grad_norm(record.grad_norm);
  metrics.set_tokens(record.tokens);
  metrics.set_target_tokens(record.target_tokens);
  metrics.set_seconds(record.seconds);
  return report;
}

v1::Report to_report(const EvalRecord& record) {
  v1::Report report;
  v1::EvalResult& eval = *report.mutable_eval();
  eval.set_step(record.step);
  eval.set_loss(record.loss);
  eval.set_loss_dense(record.loss_dense);
  eval.set_perplexity(record.perplexity);
  eval.set_target_tokens(record.target_tokens);
  return report;
}

v1::Report to_report(const CheckpointRecord& record) {
  v1::Report report;
  *report.mutable_checkpoint() = to_info(record);
  return report;
}

v1::Report to_report(const ResumeRecord& resume) {
  v1::Report report;
  *report.mutable_resumed() = to_info(resume.from);
  return report;
}

v1::Report to_report(const MergeRecord& record) {
  v1::Report report;
  v1::MergeSummary& merge = *report.mutable_merge();
  merge.set_verified(record.verified);
  merge.set_tensors_changed(record.tensors_changed);
  merge.set_tensors_unchanged(record.tensors_unchanged);
  merge.set_max_abs_logit_difference(record.max_abs_logit_difference);
  merge.set_model_dir(record.model_dir);
  merge.set_adapter_dir(record.adapter_dir);
  return report;
}

v1::Report to_log_report(const std::string& text, v1::LogMessage::Level level) {
  v1::Report report;
  v1::LogMessage& log = *report.mutable_log();
  log.set_level(level);
  log.set_text(to_utf8(text));
  return report;
}

v1::Report to_end_report(int exit_code, const std::string& message) {
  v1::Report report;
  report.mutable_end()->set_exit_code(exit_code);
  report.mutable_end()->set_message(to_utf8(message));
  return report;
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
      return "prepare";
    case Phase::checkpoint:
      return "checkpoint";
    case Phase::eval:
      return "evaluate";
    case Phase::export_model:
      return "export";
    default:
      return "train";
  }
}

}  // namespace emoe::worker
