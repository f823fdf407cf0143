#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "launcher/local/engine_attempt.h"
#include "launcher/slurm/slurm_queue.h"

namespace emoe::launcher {

// The files of an attempt under Slurm. Besides those of every engine:
//
//   slurm_job.sh  the batch script
//
// slurm_job is the number that sbatch printed, slurm_run "NUMBER.RESTARTS" of the one Slurm job that runs the
// attempt or did, slurm_exit the exit code of srun.
class SlurmAttempt : public EngineAttempt {
 public:
  explicit SlurmAttempt(std::filesystem::path dir) : EngineAttempt(std::move(dir), "slurm") {}

  [[nodiscard]] std::filesystem::path script() const { return files().dir() / "slurm_job.sh"; }
  // The number of the Slurm job that took the attempt; "" before one did, and for "withdrawn".
  [[nodiscard]] std::string taken_by() const;

  // How it ended. `job`: as squeue last listed it; nothing when Slurm has forgotten it.
  [[nodiscard]] AttemptEnd explain(const std::optional<SlurmJob>& job) const;

 private:
  [[nodiscard]] bool all_ranks_left_word() const;
};

}  // namespace emoe::launcher
