#include "worker/report/tee_sink.h"

namespace emoe::worker {

void TeeSink::on_plan(int64_t steps_planned, int64_t first_step) {
  for (ProgressSink* sink : sinks_) sink->on_plan(steps_planned, first_step);
}

void TeeSink::on_phase(Phase phase) {
  for (ProgressSink* sink : sinks_) sink->on_phase(phase);
}

void TeeSink::on_step(const StepRecord& record) {
  for (ProgressSink* sink : sinks_) sink->on_step(record);
}

void TeeSink::on_eval(const EvalRecord& record) {
  for (ProgressSink* sink : sinks_) sink->on_eval(record);
}

void TeeSink::on_checkpoint(const CheckpointRecord& record) {
  for (ProgressSink* sink : sinks_) sink->on_checkpoint(record);
}

void TeeSink::on_resume(const CheckpointRecord& from) {
  for (ProgressSink* sink : sinks_) sink->on_resume(from);
}

void TeeSink::on_merge(const MergeRecord& record) {
  for (ProgressSink* sink : sinks_) sink->on_merge(record);
}

void TeeSink::on_message(const std::string& text) {
  for (ProgressSink* sink : sinks_) sink->on_message(text);
}

void TeeSink::on_work_done() {
  for (ProgressSink* sink : sinks_) sink->on_work_done();
}

void TeeSink::on_checkpoint_failure(const std::string& text) {
  for (ProgressSink* sink : sinks_) sink->on_checkpoint_failure(text);
}

void TeeSink::on_non_finite(int64_t step) {
  for (ProgressSink* sink : sinks_) sink->on_non_finite(step);
}

void TeeSink::on_expert_load(const ExpertLoad& load) {
  for (ProgressSink* sink : sinks_) sink->on_expert_load(load);
}

}  // namespace emoe::worker
