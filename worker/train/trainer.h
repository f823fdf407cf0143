#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "plan/training_flops.h"
#include "text/row.h"
#include "worker/comm/device_group.h"
#include "worker/comm/host_group.h"
#include "worker/errors.h"
#include "worker/eval/evaluation.h"
#include "worker/eval/expert_counts.h"
#include "worker/model/model.h"
#include "worker/report/progress_sink.h"
#include "worker/train/adamw.h"
#include "worker/train/batch_plan.h"
#include "worker/train/checkpointer.h"
#include "worker/train/flat_parameters.h"
#include "worker/train/phase_timer.h"
#include "worker/train/schedule.h"
#include "worker/train/step_mailbox.h"
#include "worker/train/train_options.h"

namespace emoe::worker {

enum class TrainEnd {
  finished,   // all planned steps are done
  stopped,    // StopRequest::stop: ended at a step edge without a checkpoint
  preempted,  // StopRequest::checkpoint_and_stop: a checkpoint of the last step done lies on the
              // disk
};

struct TrainResult {
  TrainEnd end = TrainEnd::finished;
  int64_t first_step = 0;  // where this run began: 0, or the checkpoint's step
  int64_t steps_done = 0;
  // Where the ranks share the trained weights and the run is finished: the folder of the checkpoint
  // with the result, which no rank has in memory.
  std::string checkpoint;
};

// The step loop of one rank; every rank makes one with the same options, rows and weights and calls
// run() once. All random numbers come from (seed, step, row), all positions from the step: a run
// resumed from a checkpoint goes on bit for bit (same ranks), or equal to rounding (other ranks).
//
// One step: rows of the global batch → this rank's micro-batches → forward and backward, gradients
// gathering in one flat buffer (of adapters summed over the ranks that share each layer, where there are any) →
// one all-reduce of it (which also carries the loss, stop requests and the place of a non-finite number,
// see step_mailbox.h) → clip → AdamW.
// Around it: evaluation before the first step, every eval_every and after the last; a checkpoint
// every checkpoint.every_steps, after the last step, and when asked for. Those of a LoRA run are
// written while the next step computes, and durable and told before it ends; in full tuning a copy
// of the state would take too much memory, so the step waits. A stop asked of one rank stops all at
// the same step edge.
//
// A checkpoint that cannot be written (disk full) is reported (CheckpointFailure) and training goes
// on with the older ones; only when the run is about to stop for it is that a CheckpointError.
//
// Throws NonFiniteError (76), CommunicationError (71), CheckpointError (74), ResumeError (64: a
// checkpoint of other data, model or spec). Uses the model from the calling thread only.
class Trainer {
 public:
  struct Parts {
    Model& model;
    HostGroup& host;      // the ranks that share the rows
    DeviceGroup& device;  // the same ranks, for tensors where the model is
    ProgressSink& progress;
    StopSource& stop;
    const Clock& clock;
    const std::vector<Row>& train_rows;
    EvaluationSubject evaluated;  // may be empty
    // Where other ranks share each layer (see TensorSplit), and so take the same rows: those that share this
    // one's, and all ranks of the run. Null: no rank does.
    DeviceGroup* tensor = nullptr;
    HostGroup* all = nullptr;
  };
  // Moves the model's trainable tensors into one flat buffer; the model stays usable after the
  // trainer is gone. Throws std::invalid_argument when the options leave no step (see BatchPlan) or
  // the model has nothing to train.
  Trainer(TrainOptions options, const Parts& parts);
  Trainer(const Trainer&) = delete;  // its parts refer to one another
  Trainer& operator=(const Trainer&) = delete;

  [[nodiscard]] TrainResult run();

  // The experts chosen by all ranks in all training steps (of this run and those it resumed); the
  // same on every rank, empty for a dense model. Collective.
  [[nodiscard]] ExpertCounts expert_counts() const;

 private:
  [[nodiscard]] bool checkpoints_on() const { return !options_.checkpoint.folder.empty(); }
  [[nodiscard]] bool eval_due(int64_t done) const;
  [[nodiscard]] bool checkpoint_due(int64_t done) const;
  void resume();
  void evaluate_now(int64_t done);
  // The state after `done` steps. Collective.
  [[nodiscard]] TrainState state_after(int64_t done);
  // What the checkpoint due after `done` steps leads to: one that is written beside the next step,
  // or at once.
  void checkpoint(int64_t done);
  // Tells of the one that was written beside this step, durable by now.
  void finish_checkpoint();
  void tell_failure(int64_t done, const std::string& failure);
  // One step; returns what all ranks do at its end, whichever of them was asked to.
  StopRequest run_step(int64_t step);
  [[noreturn]] void fail_non_finite(int64_t step, int rank, const std::string& tensor);
  void report_expert_load();
  [[nodiscard]] double forward_and_backward(const StepBatches& batches, int64_t step);
  [[nodiscard]] double norm_of_gradient(const std::vector<StepNote>& notes) const;
  [[nodiscard]] std::vector<StepNote> exchange(int64_t step, double own_loss);
  [[nodiscard]] HostGroup& all() const { return parts_.all != nullptr ? *parts_.all : parts_.host; }
  // Ranks that share each layer, as one.
  [[nodiscard]] int ranks_as_one() const { return all().world_size() / parts_.host.world_size(); }
  // The largest over all ranks of the run. Collective.
  [[nodiscard]] int64_t most_of_all(int64_t mine);
  // What is asked of this rank, or of one that shares its layers.
  [[nodiscard]] StopRequest asked_to_stop();
  // True when the loop ends here.
  bool at_edge(int64_t done, StopRequest stop);

  TrainOptions options_;
  Parts parts_;
  BatchPlan plan_;
  Schedule schedule_;
  TrainingFlops flops_;
  FlatParameters parameters_;
  Adamw optimizer_;
  Checkpointer checkpointer_;
  PhaseTimer phases_;
  TrainState state_;          // of the run so far; expert_counts are kept in own_counts_
  ExpertCounter counter_;     // of the present step
  ExpertCounts own_counts_;   // this rank's share of the run's counts
  ExpertCounts step_counts_;  // and of the present step's
  TrainResult result_;
  int64_t failed_checkpoints_ = 0;
};

}  // namespace emoe::worker
