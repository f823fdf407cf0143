#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "base/attempt_contract.h"
#include "base/file_lock.h"
#include "worker/run/content_hash.h"
#include "worker/run/job_plan.h"

namespace emoe::worker {

// The paths of a run's output folder (names: docs/TOUR.md, "What a run leaves").
struct OutputFolder {
  std::filesystem::path root;

  [[nodiscard]] std::filesystem::path lock() const { return root / ".lock"; }
  [[nodiscard]] std::filesystem::path job_yaml() const { return root / "job.yaml"; }
  [[nodiscard]] std::filesystem::path data_report() const { return root / "data_report.json"; }
  [[nodiscard]] std::filesystem::path partition() const { return root / "partition"; }
  [[nodiscard]] std::filesystem::path partition_report() const {
    return root / "partition_report.json";
  }
  [[nodiscard]] std::filesystem::path ffn_choice() const { return root / "ffn.json"; }
  [[nodiscard]] std::filesystem::path weights_choice() const { return root / "weights.json"; }
  [[nodiscard]] std::filesystem::path expert_stats() const { return root / "expert_stats.json"; }
  [[nodiscard]] std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  [[nodiscard]] std::filesystem::path export_dir() const { return root / "export"; }
  [[nodiscard]] std::filesystem::path cache() const { return root / kCacheFolder; }
};

// Checks that a folder that exists is this job's, or nobody's yet, and writes nothing. This job's
// is one whose job.yaml has the same identity and, where it has hashes, was made of files with the
// content they have now. JobError 64 for another job's folder or one that is no run's; file errors
// as they come. Every rank calls it before anything is written.
void check_output_folder(const OutputFolder& out, const JobPlan& plan, ContentHasher& hasher);

// Rank 0's: makes the folder and takes it for this run alone. The lock is to be held until the run
// ends; it dies with the process. Waits `patience` for another holder, since an attempt may begin
// while the one before is still dying. Temporary files of killed writes are removed.
// JobError 64 when the folder is not this job's or another run has it, 74 when it cannot be made
// or written. Nothing where the file system has no locks (a warning).
[[nodiscard]] std::optional<FileLock> claim_output_folder(const OutputFolder& out,
                                                          const JobPlan& plan,
                                                          ContentHasher& hasher,
                                                          std::chrono::milliseconds patience);

// Writes job.yaml: the resolved spec with its hashes.
void write_job_yaml(const OutputFolder& out, const JobPlan& plan, const ContentHashes& hashes);

// `status` is that of a lock which could not be taken: throws JobError 74, but only warns where the
// file system knows no locks (some network mounts); `consequence` says what is lost then.
void warn_without_locks(const Status& status, const std::string& consequence);

}  // namespace emoe::worker
