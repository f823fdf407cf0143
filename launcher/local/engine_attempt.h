#pragma once

#include <filesystem>
#include <string>

#include "base/process.h"
#include "base/status.h"
#include "launcher/launcher.h"
#include "launcher/local/attempt_claim.h"
#include "launcher/local/attempt_files.h"

namespace emoe::launcher {

// The files of an attempt on an engine with a queue of its own, beside those that it has on this machine
// too (launch.json, rank_N.exit, output.log, …: attempt_files.h). Coordinator and ranks see the folder
// at the same path.
//
//   ENGINE_job   what the engine calls it: exists = it was given to the engine
//   ENGINE_run   a link, what the one start calls itself that runs the attempt or did (attempt_claim.h)
//   ENGINE_exit  the exit code of the program that starts the ranks
class EngineAttempt {
 public:
  // `engine`: "slurm", "kubernetes".
  EngineAttempt(std::filesystem::path dir, std::string engine)
      : files_(std::move(dir)),
        engine_(std::move(engine)),
        claim_(files_.dir() / (engine_ + "_run")) {}

  [[nodiscard]] const AttemptFiles& files() const { return files_; }
  [[nodiscard]] const AttemptClaim& claim() const { return claim_; }

  // What the engine calls it; "" where it was not given to it, as far as we know.
  [[nodiscard]] std::string given_as() const;
  [[nodiscard]] Status record_given(const std::string& name) const;
  [[nodiscard]] bool taken() const { return !claim_.taken_by().empty(); }
  // The engine has it, or had.
  [[nodiscard]] bool was_given() const { return !given_as().empty() || taken(); }

  // Before it is given to the engine; DATA_LOSS where that cannot be written.
  [[nodiscard]] Status record_launch(const LaunchRequest& request) const;
  // After an engine's silence: from here on it starts nothing. OK where it runs already, UNAVAILABLE
  // with `why` where it does not.
  [[nodiscard]] Status withdraw(const std::string& why) const;

  // What the ranks left. `seen`: how `starter` (the program "srun", "mpirun") ended, where it left no word.
  [[nodiscard]] AttemptEnd end_of_ranks(ExitStatus seen, const std::string& starter) const;

 private:
  AttemptFiles files_;
  std::string engine_;
  AttemptClaim claim_;
};

}  // namespace emoe::launcher
