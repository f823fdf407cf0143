#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/attempt_contract.h"
#include "base/clock.h"
#include "base/warning.h"
#include "worker/report/preflight_record.h"
#include "worker/report/suite_result.h"

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
inline constexpr std::array<const char*, 9> kPhaseNames = {"prepare",    "data", "forward",
                                                           "backward",   "comm", "optimizer",
                                                           "checkpoint", "eval", kExportPhase};
[[nodiscard]] constexpr const char* to_string(Phase phase) {
  return kPhaseNames[static_cast<size_t>(phase)];
}

// The number of optimiser steps is known; `first_step` is 0, or a checkpoint's.
struct PlanRecord {
  int64_t steps_planned = 0;
  int64_t first_step = 0;
};

struct StepRecord {
  int64_t step = 0;  // 0-based
  double loss = 0.0;
  double learning_rate = 0.0;
  double grad_norm = 0.0;  // before clipping
  int64_t tokens = 0;      // real tokens of all ranks
  int64_t target_tokens = 0;
  double seconds = 0.0;
  int ranks = 1;  // that did it
  int64_t padding_tokens = 0;
  int64_t samples = 0;
  double flops = 0.0;                     // of all ranks, see plan/training_flops.h
  double peak_flops = 0.0;                // a second, of this rank's device; 0: not known
  std::map<Phase, double> phase_seconds;  // this rank's
};

struct EvalRecord {
  int64_t step = 0;           // optimiser steps done before it
  double loss = 0.0;          // as trained, mask on; this and the next three are of held-out rows
  double loss_dense = 0.0;    // mask off
  double perplexity = 0.0;    // exp(loss_dense)
  int64_t target_tokens = 0;  // 0: there were no rows
  // A suite's answers, null without one: as trained, and with the mask off. Of a dense model both
  // are the same.
  std::shared_ptr<const SuiteResult> suite = nullptr;
  std::shared_ptr<const SuiteResult> suite_dense = nullptr;
};

// So much of an evaluation is done, in pieces of about the same size.
struct EvalProgress {
  int64_t done = 0;
  int64_t planned = 0;
};

struct CheckpointRecord {
  int64_t step = 0;  // optimiser steps done
  std::string path;
  int64_t bytes = 0;
  double seconds = 0.0;  // how long writing it took; 0: not known
  WallTime written;
};

// A checkpoint could not be written; training goes on with the older ones. The warning counts those
// of this run.
struct CheckpointFailure {
  Warning warning;
};

// The run goes on from a checkpoint of an earlier one. Its `bytes` are known on rank 0 only.
struct ResumeRecord {
  CheckpointRecord from;
};

// For people.
[[nodiscard]] inline std::string to_string(const ResumeRecord& resume) {
  return "resumed from the checkpoint of step " + std::to_string(resume.from.step);
}

struct MergeRecord {
  bool verified = false;
  int64_t tensors_changed = 0;
  int64_t tensors_unchanged = 0;
  double max_abs_logit_difference = 0.0;
  double relative_rounding_loss = 0.0;  // of what training changed, as a part of its norm
  std::string model_dir;
  std::string adapter_dir;
};

// For people.
struct Message {
  std::string text;
};

// What is to be told to the user from here on; none is an event too, of a run that found nothing.
using Warnings = std::vector<Warning>;

// Step `step` (0-based) gave a loss or gradient that is not finite; the run ends with it.
struct NonFiniteStep {
  int64_t step = 0;
};

// How evenly this rank's tokens of one step fell on the experts of one layer. For dashboards, not
// part of the run's record.
struct ExpertLoad {
  int64_t layer = 0;                // index in the model
  double load_cv = 0.0;             // standard deviation over mean of the experts' selections
  double max_over_mean = 0.0;       // selections of the busiest expert over the mean
  int64_t dead = 0;                 // experts not selected
  std::vector<int64_t> selections;  // tokens that used each expert
};

// What the run is to do before the next step. Where ranks are asked for different things the
// largest holds: a checkpoint that one of them is asked for is written.
enum class StopRequest { none, stop, checkpoint_and_stop };

// What can happen in a run. A Phase says that the rank enters it, several times a step.
using Event = std::variant<PlanRecord, Phase, StepRecord, EvalProgress, EvalRecord,
                           CheckpointRecord, CheckpointFailure, ResumeRecord, MergeRecord, Message,
                           Warnings, NonFiniteStep, ExpertLoad, PreflightRecord>;

// Where the progress of this rank goes: the output folder's files, Prometheus, the coordinator's
// session, or several of them. Called by the thread of the step loop, except for on_work_done(); no
// method waits for a network, none throws.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  // An implementation visits the event with one overload for each alternative, also for those it
  // ignores, and without a generic one: a new alternative then fails to compile until every sink
  // has decided about it.
  virtual void on(const Event& event) = 0;
  // Rank 0 is about to write a checkpoint. A run that resumes from it will not report the steps
  // before it again, so what was reported so far must survive a power cut when this returns.
  virtual void before_checkpoint() = 0;
  // One more piece of work is done: a micro-batch, a tensor read or written, a k-means iteration, a
  // row, some megabytes. It tells a rank that works for long from one that hangs, so the pieces
  // should be small. From any thread.
  virtual void on_work_done() = 0;
};

// Asked by the step loop between two steps (at the "step edge"): has a signal or a command of the
// coordinator come?
class StopSource {
 public:
  virtual ~StopSource() = default;
  // Once it asks for a stop, it keeps asking.
  [[nodiscard]] virtual StopRequest poll() = 0;
};

}  // namespace emoe::worker
