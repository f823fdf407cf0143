#pragma once

#include <filesystem>

#include "base/status.h"
#include "worker/report/json_lines.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// metrics.jsonl and eval.jsonl in the output folder, floats in full precision (the shortest text
// that reads back to the same double; null for NaN and infinities). Rank 0 has one.
//
// on_plan(), before the first step or evaluation, drops what a resumed run will do again: steps
// from first_step on, evaluations made after first_step steps or later ones made again. So every
// step stands in the file once, whatever crashed before.
//
// on_phase(checkpoint), before a checkpoint is written, makes the lines survive a power cut: a run
// that resumes from it does not do their steps again.
//
// No method throws: lines that do not fit on the disk are kept and tried again with every later
// line; finish() tells whether all are written. Not thread-safe (the step loop's thread).
class FileSink final : public ProgressSink {
 public:
  explicit FileSink(const std::filesystem::path& out_dir);

  void on_plan(int64_t steps_planned, int64_t first_step) override;
  void on_phase(Phase phase) override;
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  void on_checkpoint(const CheckpointRecord& /*record*/) override {}
  void on_merge(const MergeRecord& /*record*/) override {}
  void on_message(const std::string& /*text*/) override {}

  // Writes what is left; RESOURCE_EXHAUSTED (disk full) or another error of the file: exit code 74.
  [[nodiscard]] Status finish();

 private:
  void note(const Status& status);

  JsonLines steps_;
  JsonLines evals_;
  bool warned_ = false;
};

}  // namespace emoe::worker
