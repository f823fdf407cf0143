#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/status.h"
#include "launcher/kubernetes/pod_template.h"
#include "launcher/launcher.h"

namespace emoe::launcher {

// What the service wants of the pods of all attempts.
struct PodSettings {
  std::string image;
  std::string queue;  // of Kueue; empty: none
  int ranks_per_pod = 1;
  int gpus_per_rank = 0;
  std::string gpu_resource = "nvidia.com/gpu";
  std::string memory_per_rank;  // "8Gi"; empty: no limit
  std::string shm_size = "1Gi";
  std::chrono::seconds grace_period{300};  // the least
  std::vector<std::string> mpirun{"mpirun", "--bind-to", "none"};
  std::string rank_guard;        // emoe-supervise, in the image
  uint64_t log_limit_bytes = 0;  // of what one rank prints
};

// Labels of what we make.
inline constexpr char kManagedByLabel[] = "app.kubernetes.io/managed-by";
inline constexpr char kManager[] = "emoe-coordinator";
inline constexpr char kAttemptLabel[] = "emoe/attempt";  // of MPIJob and pods: the MPIJob's name
inline constexpr char kJobAnnotation[] = "emoe/job-id";
inline constexpr char kFolderAnnotation[] = "emoe/attempt-folder";
inline constexpr char kRoleLabel[] = "emoe/role";  // of pods: "launcher" or "worker"

// The name of an attempt's MPIJob: the same whoever asks, no other's, and short enough for what the
// operator puts behind it ("-worker-4095" in a DNS label).
[[nodiscard]] std::string mpi_job_name(const std::string& job_id, int attempt);

// The attempt's folder, by an MPIJob of ours; "" for others.
[[nodiscard]] std::string folder_of(const nlohmann::json& mpi_job);

// What the job wants, and what the service says where it wants nothing.
[[nodiscard]] PodSettings combined(const PodOptions& job, PodSettings service);

// How long a pod that must go has: the ranks end their step and checkpoint meanwhile.
[[nodiscard]] std::chrono::seconds grace_period(std::chrono::seconds least,
                                                std::chrono::duration<double> checkpoint_time);

// The MPIJob of an attempt: one launcher pod, which takes the attempt and starts the ranks by mpirun,
// and as many worker pods as ranks_per_pod asks. INVALID_ARGUMENT where no image is set.
[[nodiscard]] Result<nlohmann::json> mpi_job(const LaunchRequest& request,
                                             const PodSettings& settings, const PodTemplate& pods);

}  // namespace emoe::launcher
