#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/status.h"
#include "launcher/kubernetes/attempt_state.h"
#include "launcher/launcher.h"
#include "launcher/local/attempt_claim.h"
#include "launcher/local/attempt_files.h"

namespace emoe::launcher {

// The files of an attempt under Kubernetes, beside those that it has on this machine too (launch.json,
// rank_N.exit, output.log, end.json: attempt_files.h). The folder lies on a volume that coordinator and
// pods mount at the same path.
//
//   kubernetes_job    the name of its MPIJob: exists = it was created
//   kubernetes_run    a link, the uid of the one pod that runs the attempt or did (attempt_claim.h)
//   kubernetes_exit   the exit code of mpirun
//   rank_environment  variables of every rank as a shell reads them; its owner's only, for the token
class KubernetesAttempt {
 public:
  explicit KubernetesAttempt(std::filesystem::path dir)
      : files_(std::move(dir)), claim_(files_.dir() / "kubernetes_run") {}

  [[nodiscard]] const AttemptFiles& files() const { return files_; }
  [[nodiscard]] const AttemptClaim& claim() const { return claim_; }

  [[nodiscard]] bool created() const { return !text_of(files_, "kubernetes_job").empty(); }
  [[nodiscard]] Status record_creation(const std::string& name) const;
  [[nodiscard]] bool taken() const { return !claim_.taken_by().empty(); }
  [[nodiscard]] Status write_environment(const LaunchRequest& request) const;

  // Puts together what the cluster says of its end and what the ranks left.
  [[nodiscard]] AttemptEnd explain(const AttemptState& state) const;

 private:
  AttemptFiles files_;
  AttemptClaim claim_;
};

}  // namespace emoe::launcher
