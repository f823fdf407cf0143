#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "worker/eval/expert_counts.h"
#include "worker/tensor/safetensors.h"

namespace emoe::worker {

// What a run must know to go on, besides tensors. All random numbers follow from (seed, step).
struct TrainState {
  int64_t step = 0;  // optimiser steps done = position in the data
  int64_t seed = 0;
  int world_size = 1;            // for the record; another one may resume
  int64_t last_eval_step = -1;   // steps done at the newest evaluation; -1: none yet
  std::string fingerprint;       // CheckpointOptions::fingerprint
  std::string data_fingerprint;  // of the rows
  ExpertCounts expert_counts;    // of all ranks
};

// Tensors are fp32, in the original neuron order, under their PEFT or Hugging Face names, or pieces of
// them (see StoredTensors).
struct Checkpoint {
  TrainState state;
  TensorMap weights;
  TensorMap optimizer;  // AdamW's m and v, named kFirstMoment + NAME and kSecondMoment + NAME
};
inline constexpr char kFirstMoment[] = "exp_avg.";
inline constexpr char kSecondMoment[] = "exp_avg_sq.";
// What holds the weights.
inline constexpr char kAdapterFile[] = "adapter.safetensors";
inline constexpr char kFullWeightsFile[] = "weights.safetensors";

struct CheckpointFolder {
  std::filesystem::path path;
  int64_t bytes = 0;  // of all files
  WallTime written;
};

// The folder checkpoints/ of a run. One process (rank 0) writes; any may read. Where the ranks share
// the trained weights, each of them writes its shard.
//
// A checkpoint is step_NNNNNNNN/ with adapter.safetensors or weights.safetensors,
// optimizer.safetensors (exp_avg.NAME, exp_avg_sq.NAME), state.json and manifest.json ({"version":
// 1, "step", "files": [{"name", "bytes", "sha256"}]}). The manifest is written last, so a folder
// with one was once whole. It is written as step_NNNNNNNN.tmp, every file and the folder fsynced,
// then renamed, then the parent fsynced: what has the final name is whole, unless the disk itself
// tore it, which the hashes show. Of N shards number i, from 1, is weights-0000i-of-0000N.safetensors
// and optimizer-0000i-of-0000N.safetensors, and the manifest says {"shards": N}.
class CheckpointStore {
 public:
  // `weights_file`: kAdapterFile (PEFT names) or kFullWeightsFile (Hugging Face's).
  // `on_work_done` is called for each tensor written and whenever some megabytes are hashed.
  CheckpointStore(
      std::filesystem::path folder, std::string weights_file, int64_t keep,
      std::function<void()> on_work_done = [] {});

  // Makes the folder and removes what an interrupted write left (*.tmp).
  [[nodiscard]] Status prepare() const;
  // Writes one and removes all but the `keep` newest whole ones up to it. On an error (RESOURCE_EXHAUSTED:
  // disk full) nothing is left of the new one, and the older ones are untouched.
  [[nodiscard]] Result<CheckpointFolder> save(const Checkpoint& checkpoint) const;
  // The same by several processes, in this order: begin() on the first of them, write_shard() on each,
  // commit() on the first with what each of the others returned; or, where one failed, abandon().
  [[nodiscard]] Status begin(int64_t step) const;
  [[nodiscard]] Result<std::string> write_shard(const Checkpoint& own, int shard, int shards) const;
  // The same of tensors that are made one after the other, so that one at a time is in memory. Every
  // `make` is called once, in order, also after an error and where its result is not wanted: it may be
  // collective.
  struct MadeTensor {
    std::string name;
    std::vector<int64_t> shape;        // fp32; no element: not stored
    std::function<at::Tensor()> make;  // not needed any more when the next one is made
  };
  struct MadeShard {
    std::vector<MadeTensor> weights;
    std::vector<MadeTensor> optimizer;
  };
  [[nodiscard]] Result<std::string> write_shard(int64_t step, const MadeShard& own, int shard,
                                                int shards) const;
  // save() of such tensors.
  [[nodiscard]] Result<CheckpointFolder> save(const TrainState& state, const MadeShard& all) const;
  [[nodiscard]] Result<CheckpointFolder> commit(const TrainState& state,
                                                const std::vector<std::string>& written) const;
  void abandon(int64_t step) const;
  // The newest one whose manifest is complete and whose files have the sizes and hashes it says;
  // nothing where there is none. Why others were passed over is added to `skipped`. One that cannot
  // be read (I/O, permissions, too many open files) is an error: it may well be whole.
  [[nodiscard]] Result<std::optional<CheckpointFolder>> newest_valid(
      std::vector<std::string>& skipped) const;
  // DATA_LOSS naming the file when it does not hold what it should. Tensors are views into the
  // mapped files: not to be written to.
  [[nodiscard]] Result<Checkpoint> load(const std::filesystem::path& path) const;

 private:
  [[nodiscard]] std::filesystem::path path_of(int64_t step) const;
  [[nodiscard]] std::filesystem::path unfinished(int64_t step) const;
  // Ends what begin() began with all shards of one process, or why they were not written.
  [[nodiscard]] Result<CheckpointFolder> end(const TrainState& state,
                                             const Result<std::string>& written) const;
  [[nodiscard]] Status write_made(const std::filesystem::path& path,
                                  const std::vector<MadeTensor>& tensors) const;
  [[nodiscard]] Status finish(const TrainState& state,
                              const std::vector<std::string>& written) const;
  void remove_old(int64_t newest_step) const;
  // All that a manifest must name.
  [[nodiscard]] std::vector<std::string> files(int shards) const;
  // The step that the manifest of a folder is of, see verify_manifest().
  [[nodiscard]] Result<int64_t> verify(const std::filesystem::path& path, bool hashes) const;

  std::filesystem::path folder_;
  std::string weights_file_;
  int64_t keep_;
  std::function<void()> on_work_done_;
};

}  // namespace emoe::worker
