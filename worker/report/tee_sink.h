#pragma once

#include <utility>
#include <vector>

#include "worker/report/progress_sink.h"

namespace emoe::worker {

// Hands everything to several sinks, in order. They outlive it.
class TeeSink final : public ProgressSink {
 public:
  explicit TeeSink(std::vector<ProgressSink*> sinks) : sinks_(std::move(sinks)) {}
  void on_plan(int64_t steps_planned, int64_t first_step) override;
  void on_phase(Phase phase) override;
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  void on_checkpoint(const CheckpointRecord& record) override;
  void on_resume(const CheckpointRecord& from) override;
  void on_merge(const MergeRecord& record) override;
  void on_message(const std::string& text) override;
  void on_work_done() override;
  void on_checkpoint_failure(const std::string& text) override;
  void on_non_finite(int64_t step) override;
  void on_expert_load(const ExpertLoad& load) override;

 private:
  std::vector<ProgressSink*> sinks_;
};

}  // namespace emoe::worker
