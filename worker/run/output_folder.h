#pragma once

#include <filesystem>
#include <string>

#include "worker/run/job_plan.h"

namespace emoe::worker {

// The paths of a run's output folder (names: docs/TOUR.md, "What a run leaves").
struct OutputFolder {
  std::filesystem::path root;

  [[nodiscard]] std::filesystem::path job_yaml() const { return root / "job.yaml"; }
  [[nodiscard]] std::filesystem::path data_report() const { return root / "data_report.json"; }
  [[nodiscard]] std::filesystem::path partition() const { return root / "partition"; }
  [[nodiscard]] std::filesystem::path expert_stats() const { return root / "expert_stats.json"; }
  [[nodiscard]] std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  [[nodiscard]] std::filesystem::path export_dir() const { return root / "export"; }
  [[nodiscard]] std::filesystem::path cache() const { return root / "cache"; }
};

// Makes the folder, or checks that an existing one is this job's: same identity as its job.yaml.
// JobError 64 for another job's folder or one that is no run's, 74 when it cannot be made or
// written. Rank 0 only.
void claim_output_folder(const OutputFolder& out, const JobPlan& plan);

// Writes job.yaml: the resolved spec with its hashes.
void write_job_yaml(const OutputFolder& out, const JobPlan& plan, const ContentHashes& hashes);

}  // namespace emoe::worker
