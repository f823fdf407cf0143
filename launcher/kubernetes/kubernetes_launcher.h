#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "launcher/kubernetes/api_client.h"
#include "launcher/kubernetes/attempt_state.h"
#include "launcher/kubernetes/cluster_access.h"
#include "launcher/kubernetes/http.h"
#include "launcher/kubernetes/kubernetes_attempt.h"
#include "launcher/kubernetes/mpi_job.h"
#include "launcher/kubernetes/reflector.h"
#include "launcher/launcher.h"

namespace emoe::launcher {

// Attempts as MPIJobs (kubeflow.org/v2beta1) of a Kubernetes cluster: one each, created and watched
// through the API server, carried out by the MPI operator.
//
// The name of an attempt's MPIJob follows from job and attempt, so a create that got no answer is
// resolved by asking for it, whoever asks; the cluster has at most one of a name. That ranks never run
// twice does not depend on that: see AttemptClaim. What is known of MPIJobs and pods comes from two
// watches; before anything is decided for good (an attempt was never launched, has ended, is gone)
// the API server is asked itself. While it is away attempts are `unknown`, as long as it takes.
//
// An attempt that has ended is written down (end.json), then its MPIJob is deleted; it counts as
// ended when MPIJob and pods are gone. A pod that does not go a minute after its time is on a node
// that is lost, and is not waited for.
//
// A graceful stop is the deletion of the MPIJob: pods get their grace period, in which the ranks
// checkpoint; kill leaves them one second.
//
// Thread-safe; a call takes as long as the API server does, at most request_limit for each question.
class KubernetesLauncher final : public Launcher {
 public:
  struct Config {
    PodSettings pods;
    std::filesystem::path template_file;  // empty: none; read at each launch
    std::chrono::milliseconds request_limit{30'000};
    std::chrono::seconds start_timeout{600};
  };

  // `clock` outlives it.
  KubernetesLauncher(Config config, const ClusterAccess& access,
                     std::unique_ptr<HttpTransport> transport, const Clock& clock);

  // INVALID_ARGUMENT for a configuration with which nothing could be launched: the template, an
  // image, quantities. The API server is not asked.
  [[nodiscard]] Status check_config() const;
  // Begins to watch the cluster, and to sweep it.
  void run_watches();
  // Deletes MPIJobs whose create was given up, and that have come late.
  void sweep();

  [[nodiscard]] LaunchHandle handle_of(const std::string& job_id, int attempt,
                                       const std::filesystem::path& attempt_dir) const override;
  // FAILED_PRECONDITION: the API server refuses it (its own words, and what is missing).
  // RESOURCE_EXHAUSTED: a quota is used up.
  [[nodiscard]] Result<LaunchHandle> launch(const LaunchRequest& request) override;
  [[nodiscard]] Result<AttemptStatus> poll(const LaunchHandle& handle) override;
  [[nodiscard]] Status stop(const LaunchHandle& handle, StopMode mode) override;
  [[nodiscard]] Result<LogTail> log(const LaunchHandle& handle, size_t bytes) override;
  [[nodiscard]] std::string name() const override { return "kubernetes"; }

  // The watches themselves, for tests that have no threads.
  [[nodiscard]] Reflector& jobs() { return jobs_; }
  [[nodiscard]] Reflector& pods() { return pods_; }

 private:
  // What a handle's text says.
  struct Named {
    std::string name;  // of the MPIJob
    KubernetesAttempt attempt;
  };
  // What we remember of an attempt between two calls.
  struct Memory {
    SteadyTime first_seen;
    std::optional<SteadyTime> stuck_since;
    std::map<std::string, SteadyTime> deleted;  // by the object's name: when we last asked for it
    std::map<std::string, SteadyTime> leaving;  // pods: since when they are on their way
  };

  [[nodiscard]] Result<Named> parse(const LaunchHandle& handle) const;
  [[nodiscard]] Result<nlohmann::json> object_of(const LaunchRequest& request) const;
  [[nodiscard]] Status check_access(const Named& named);
  [[nodiscard]] Status create(const Named& named, const nlohmann::json& object);
  // After a create without a clear answer.
  [[nodiscard]] Result<bool> arrived(const Named& named, const nlohmann::json& object);

  [[nodiscard]] Memory& memory_of(const std::string& name);
  [[nodiscard]] ClusterView known(const Named& named) const;
  [[nodiscard]] Result<ClusterView> asked(const Named& named);
  [[nodiscard]] Result<AttemptStatus> look(const Named& named);
  [[nodiscard]] Result<AttemptStatus> record_end(const Named& named, const AttemptEnd& end);
  // What is left of an attempt that has ended goes; it has ended for us when that is gone.
  [[nodiscard]] Result<AttemptStatus> finish(const Named& named);
  [[nodiscard]] bool is_lost(const Named& named, const nlohmann::json& object);
  [[nodiscard]] bool remains(const Named& named, const ClusterView& view);
  [[nodiscard]] Status remove_job(const Named& named, const ClusterView& view);
  [[nodiscard]] Status remove_object(const Named& named, const std::string& path,
                                     const nlohmann::json& object, nlohmann::json options);
  [[nodiscard]] Status remove_pods(const Named& named, const ClusterView& view,
                                   const nlohmann::json& options);

  const Config config_;
  const Clock& clock_;
  const std::unique_ptr<HttpTransport> transport_;
  ApiClient api_;
  Reflector jobs_;
  Reflector pods_;
  std::mutex mutex_;                      // one call at a time
  std::map<std::string, Memory> memory_;  // by name
  std::vector<std::jthread> watches_;     // last: they end first
};

}  // namespace emoe::launcher
