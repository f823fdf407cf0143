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

// Tensors are fp32, in the original neuron order, under their PEFT or Hugging Face names.
struct Checkpoint {
  TrainState state;
  TensorMap weights;
  TensorMap optimizer;  // AdamW's m and v, named kFirstMoment + NAME and kSecondMoment + NAME
};
inline constexpr char kFirstMoment[] = "exp_avg.";
inline constexpr char kSecondMoment[] = "exp_avg_sq.";

struct CheckpointFolder {
  std::filesystem::path path;
  int64_t bytes = 0;  // of all files
  WallTime written;
};

// The folder checkpoints/ of a run. One process (rank 0) writes; any may read.
//
// A checkpoint is step_NNNNNNNN/ with adapter.safetensors or weights.safetensors,
// optimizer.safetensors (exp_avg.NAME, exp_avg_sq.NAME), state.json and manifest.json ({"version":
// 1, "step", "files": [{"name", "bytes", "sha256"}]}). The manifest is written last, so a folder
// with one was once whole. It is written as step_NNNNNNNN.tmp, every file and the folder fsynced,
// then renamed, then the parent fsynced: what has the final name is whole, unless the disk itself
// tore it, which the hashes show.
class CheckpointStore {
 public:
  // `weights_file`: "adapter.safetensors" (PEFT names) or "weights.safetensors" (Hugging Face).
  // `on_work_done` is called for each tensor written and whenever some megabytes are hashed.
  CheckpointStore(
      std::filesystem::path folder, std::string weights_file, int64_t keep,
      std::function<void()> on_work_done = [] {});

  // Makes the folder and removes what an interrupted write left (*.tmp).
  [[nodiscard]] Status prepare() const;
  // Writes one and removes all but the `keep` newest whole ones up to it. On an error (RESOURCE_EXHAUSTED:
  // disk full) nothing is left of the new one, and the older ones are untouched.
  [[nodiscard]] Result<CheckpointFolder> save(const Checkpoint& checkpoint) const;
  // The newest one whose manifest is complete and whose files have the sizes and hashes it says;
  // nothing where there is none. Why others were passed over is added to `skipped`. One that cannot
  // be read (I/O, permissions, too many open files) is an error: it may well be whole.
  [[nodiscard]] Result<std::optional<CheckpointFolder>> newest_valid(
      std::vector<std::string>& skipped) const;
  // DATA_LOSS naming the file when it does not hold what it should. Tensors are views into the
  // mapped files: not to be written to.
  [[nodiscard]] Result<Checkpoint> load(const std::filesystem::path& path) const;

 private:
  [[nodiscard]] Status write_files(const std::filesystem::path& folder,
                                   const Checkpoint& checkpoint) const;
  void remove_old(int64_t newest_step) const;
  [[nodiscard]] std::vector<std::string> files() const;  // those a manifest must name

  std::filesystem::path folder_;
  std::string weights_file_;
  int64_t keep_;
  std::function<void()> on_work_done_;
};

}  // namespace emoe::worker
