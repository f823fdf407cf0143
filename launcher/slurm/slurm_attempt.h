#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/status.h"
#include "launcher/launcher.h"
#include "launcher/local/attempt_claim.h"
#include "launcher/local/attempt_files.h"
#include "launcher/slurm/slurm_queue.h"

namespace emoe::launcher {

// The files of an attempt under Slurm, beside those that it has on this machine too (launch.json,
// rank_N.exit, output.log: attempt_files.h). The folder lies where all nodes see it.
//
//   slurm_job.sh   the batch script
//   slurm_job      the number that sbatch printed: exists = it was submitted
//   slurm_run      a link, "NUMBER.RESTARTS" of the one Slurm job that runs the attempt or did, or
//                  "withdrawn": nobody ever will
//   slurm_exit     the exit code of srun
class SlurmAttempt {
 public:
  explicit SlurmAttempt(std::filesystem::path dir)
      : files_(std::move(dir)), claim_(files_.dir() / "slurm_run") {}

  [[nodiscard]] const AttemptFiles& files() const { return files_; }
  [[nodiscard]] std::filesystem::path script() const { return files_.dir() / "slurm_job.sh"; }

  // "" where there is none.
  [[nodiscard]] std::string submitted() const { return text_of(files_, "slurm_job"); }
  [[nodiscard]] Status record_submission(const std::string& slurm_job) const;
  // The number of the Slurm job that took the attempt; "" before one did, and for "withdrawn".
  [[nodiscard]] std::string taken_by() const;
  [[nodiscard]] const AttemptClaim& claim() const { return claim_; }

  // How it ended. `job`: as squeue last listed it; nothing when Slurm has forgotten it.
  [[nodiscard]] AttemptEnd explain(const std::optional<SlurmJob>& job) const;

 private:
  [[nodiscard]] AttemptEnd end_of_ranks(const std::optional<SlurmJob>& job) const;
  [[nodiscard]] bool all_ranks_left_word() const;

  AttemptFiles files_;
  AttemptClaim claim_;
};

}  // namespace emoe::launcher
