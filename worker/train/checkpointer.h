#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "worker/comm/host_group.h"
#include "worker/errors.h"
#include "worker/model/model.h"
#include "worker/report/progress_sink.h"
#include "worker/train/adamw.h"
#include "worker/train/checkpoint_store.h"
#include "worker/train/flat_parameters.h"

namespace emoe::worker {

// Takes the state of the ranks into a checkpoint and back. Rank 0 writes and chooses; where no rank has
// all trained weights, each of them writes a shard. save() and restore() are collective: all
// ranks agree on the outcome. A checkpoint resumes whether ranks share the weights or not, and
// however many they are.
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
  // The folder of the newest checkpoint that save() wrote or restore() read; empty: none.
  [[nodiscard]] const std::string& newest() const { return newest_; }
  // As save(), but not of shared weights: rank 0 copies the state and writes it while the run goes on; other ranks do
  // nothing. To be followed by finish() before the next start() or save().
  void start(const TrainState& state);
  // Waits until what start() began is durable, and gives it or why it failed; nothing where there
  // was no start().
  struct Finished {
    int64_t step = 0;
    Result<CheckpointRecord> record;
  };
  [[nodiscard]] std::optional<Finished> finish();

  // Puts weights and moments of the newest valid checkpoint in place and gives its state; nothing
  // where there is none. Throws ResumeError when it is not of a run with these fingerprints and
  // this seed, CheckpointError when it cannot be read.
  [[nodiscard]] std::optional<TrainState> restore(const TrainState& expected);

 private:
  // The one to resume from; tells of those passed over.
  [[nodiscard]] Result<std::optional<CheckpointFolder>> choose();
  // A copy of the state on the host.
  [[nodiscard]] Checkpoint capture(const TrainState& state) const;
  // What this rank writes, brought to the host tensor by tensor while it is written. Where ranks share each layer a
  // tensor is put together from its parts, and each rank of the run writes an equal piece of it, as if no layer
  // were shared. While the state stays as it is.
  [[nodiscard]] CheckpointStore::MadeShard made_shard() const;
  // What a file has of parameter i.
  struct Piece {
    std::string name;
    std::vector<int64_t> shape;
    std::function<at::Tensor(const at::Tensor& own)> of;  // of a view of a flat buffer
  };
  [[nodiscard]] Piece piece_of(const Parameter& parameter) const;
  // `start` is when the checkpoint began. From any thread.
  [[nodiscard]] Result<CheckpointRecord> record(const Result<CheckpointFolder>& saved, int64_t step,
                                                SteadyTime start) const;
  // Every rank's shard; the record on rank 0. Collective.
  [[nodiscard]] Result<CheckpointRecord> write_shards(const TrainState& state, SteadyTime start);
  void put_back(const Checkpoint& checkpoint);

  CheckpointStore store_;
  Parts parts_;
  std::string newest_;
  int64_t started_step_ = 0;
  std::future<Result<CheckpointRecord>> started_;  // waits for its thread when it goes
};

}  // namespace emoe::worker
