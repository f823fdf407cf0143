#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"

namespace emoe::worker {

// The phases of a rank, in Prometheus labels, heartbeats and step reports.
enum class Phase {
  prepare,
  data,
  forward,
  backward,
  comm,
  optimizer,
  checkpoint,
  eval,
  export_model
};
[[nodiscard]] const char* to_string(Phase phase);

struct StepRecord {
  int64_t step = 0;  // 0-based
  double loss = 0.0;
  double learning_rate = 0.0;
  double grad_norm = 0.0;  // before clipping
  int64_t tokens = 0;      // real tokens of all ranks
  int64_t target_tokens = 0;
  double seconds = 0.0;
  int64_t padding_tokens = 0;
  int64_t samples = 0;
  double flops = 0.0;  // of all ranks, see training_flops() in worker/model/training_flops.h
  std::map<Phase, double> phase_seconds;  // this rank's
};

struct EvalRecord {
  int64_t step = 0;         // optimiser steps done before it
  double loss = 0.0;        // as trained, mask on
  double loss_dense = 0.0;  // mask off
  double perplexity = 0.0;  // exp(loss_dense)
  int64_t target_tokens = 0;
};

struct CheckpointRecord {
  int64_t step = 0;  // optimiser steps done
  std::string path;
  int64_t bytes = 0;
  double seconds = 0.0;  // how long writing it took; 0: not known
  WallTime written;
};

struct MergeRecord {
  bool verified = false;
  int64_t tensors_changed = 0;
  int64_t tensors_unchanged = 0;
  double max_abs_logit_difference = 0.0;
  std::string model_dir;
  std::string adapter_dir;
};

// How evenly this rank's tokens of one step fell on the experts of one layer.
struct ExpertLoad {
  int64_t layer = 0;                // index in the model
  double load_cv = 0.0;             // standard deviation over mean of the experts' selections
  double max_over_mean = 0.0;       // selections of the busiest expert over the mean
  int64_t dead = 0;                 // experts not selected
  std::vector<int64_t> selections;  // tokens that used each expert
};

enum class StopRequest { none, stop, checkpoint, checkpoint_and_stop };

// Where the progress of this rank goes: the output folder's files, Prometheus, the coordinator's
// session, or several of them. Called from the step loop, but for on_work_done(); no method waits
// for a network. on_phase is called several times a step.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void on_plan(int64_t steps_planned, int64_t first_step) = 0;
  virtual void on_phase(Phase phase) = 0;
  virtual void on_step(const StepRecord& record) = 0;
  virtual void on_eval(const EvalRecord& record) = 0;
  virtual void on_checkpoint(const CheckpointRecord& record) = 0;
  virtual void on_merge(const MergeRecord& record) = 0;
  virtual void on_message(const std::string& text) = 0;
  // One more piece of work is done: a micro-batch, a tensor read or written, a k-means iteration, a
  // row, some megabytes. It is what tells a rank that works for long from one that hangs, so the
  // pieces are to be small. From any thread.
  virtual void on_work_done() {}
  // The run goes on from a checkpoint of an earlier one; `bytes` are told on rank 0 only.
  virtual void on_resume(const CheckpointRecord& from) {
    on_message("resumed from the checkpoint of step " + std::to_string(from.step));
  }
  // A checkpoint could not be written; training goes on with the older ones.
  virtual void on_checkpoint_failure(const std::string& text) { on_message(text); }
  // Step `step` (0-based) gave a loss or gradient that is not finite; the run ends with it.
  virtual void on_non_finite(int64_t /*step*/) {}
  // A statistic for dashboards, not part of the run's record; sinks may ignore it.
  virtual void on_expert_load(const ExpertLoad& /*load*/) {}
};

// What the step loop asks at every step edge: a signal or the coordinator's command, whichever
// came.
class StopSource {
 public:
  virtual ~StopSource() = default;
  // `checkpoint` is handed out once; the two stops stay.
  [[nodiscard]] virtual StopRequest poll() = 0;
};

}  // namespace emoe::worker
