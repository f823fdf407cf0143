#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "worker/comm/host_group.h"
#include "worker/errors.h"
#include "worker/model/model.h"
#include "worker/report/progress_sink.h"
#include "worker/train/adamw.h"
#include "worker/train/checkpoint_store.h"
#include "worker/train/flat_parameters.h"

namespace emoe::worker {

// Takes the state of the ranks into a checkpoint and back. Rank 0 writes and chooses; all ranks
// agree on the outcome. Both methods are collective.
class Checkpointer {
 public:
  struct Parts {
    Model& model;
    FlatParameters& parameters;
    Adamw& optimizer;
    HostGroup& host;
    ProgressSink& progress;
    const Clock& clock;
  };
  Checkpointer(CheckpointStore store, const Parts& parts);

  // An empty text, or on every rank why it failed. `state` is looked at on rank 0.
  [[nodiscard]] std::string save(const TrainState& state);
  // Puts weights and moments of the newest valid checkpoint in place and gives its state; nothing
  // where there is none. Throws ResumeError when it is not of a run with these fingerprints and
  // this seed, CheckpointError when it cannot be read.
  [[nodiscard]] std::optional<TrainState> restore(const TrainState& expected);

 private:
  // The one to resume from; tells of those passed over.
  [[nodiscard]] Result<std::optional<CheckpointFolder>> choose();
  [[nodiscard]] Checkpoint capture(const TrainState& state);
  void put_back(const Checkpoint& checkpoint);

  CheckpointStore store_;
  Parts parts_;
};

}  // namespace emoe::worker
