#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "worker/comm/device_group.h"
#include "worker/comm/host_group.h"
#include "worker/eval/expert_counts.h"
#include "worker/model/model.h"
#include "worker/report/progress_sink.h"
#include "worker/text/row.h"
#include "worker/train/errors.h"
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
};

// The step loop of one rank; every rank makes one with the same options, rows and weights and calls
// run() once. All random numbers come from (seed, step, row), all positions from the step: a run
// resumed from a checkpoint goes on bit for bit (same ranks), or equal to rounding (other ranks).
//
// One step: rows of the global batch → this rank's micro-batches → forward and backward, gradients
// gathering in one flat buffer → one all-reduce of it (which also carries the loss, stop requests
// and the place of a non-finite number, see step_mailbox.h) → clip → AdamW.
// Around it: evaluation before the first step, every eval_every and after the last; a checkpoint
// every checkpoint.every_steps, after the last step, and when asked for. A stop asked of one rank
// stops all at the same step edge.
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
    const std::vector<Row>& eval_rows;  // empty: no evaluation
  };
  // Moves the model's trainable tensors into one flat buffer; the model stays usable after the
  // trainer is gone. Throws std::invalid_argument when the options leave no step (see BatchPlan) or
  // the model has nothing to train.
  Trainer(TrainOptions options, const Parts& parts);
  ~Trainer();

  [[nodiscard]] TrainResult run();

  // The experts chosen by all ranks in all training steps (of this run and those it resumed); the
  // same on every rank, empty for a dense model. Collective.
  [[nodiscard]] ExpertCounts expert_counts() const;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace emoe::worker
