#pragma once

#include <filesystem>

#include "launcher/kubernetes/attempt_state.h"
#include "launcher/local/engine_attempt.h"

namespace emoe::launcher {

// The files of an attempt under Kubernetes, on a volume that coordinator and pods mount at the same path. Besides
// those of every engine:
//
//   rank_environment  variables of every rank as a shell reads them; its owner's only, for the token
//
// kubernetes_job is the name of its MPIJob, kubernetes_run the uid of the one pod that runs the attempt or did,
// kubernetes_exit the exit code of mpirun.
class KubernetesAttempt : public EngineAttempt {
 public:
  explicit KubernetesAttempt(std::filesystem::path dir)
      : EngineAttempt(std::move(dir), "kubernetes") {}

  [[nodiscard]] Status write_environment(const LaunchRequest& request) const;

  // Puts together what the cluster says of its end and what the ranks left.
  [[nodiscard]] AttemptEnd explain(const AttemptState& state) const;
};

}  // namespace emoe::launcher
