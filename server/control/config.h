#pragma once

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "emoe/v1/job.pb.h"
#include "launcher/resources.h"
#include "server/control/project_quota.h"
#include "server/scheduler/scheduler.h"

namespace emoe::server {

// The controller's settings; main makes them from CoordinatorConfig, whose defaults are those of
// config/schema.cc.
struct ControlConfig {
  std::filesystem::path state_dir;
  std::filesystem::path jobs_root;          // empty: <state_dir>/jobs
  std::filesystem::path output_root;        // output folders are <output_root>/<job id>
  std::filesystem::path worker_program;     // emoe-worker
  launcher::Resources capacity{.cpus = 1};  // of all attempts at once; a cpu is a slot
  std::vector<Pool::Host> hosts;  // the same slots by host, where ranks are placed on some
  int max_jobs = 1000;            // unfinished jobs
  ProjectQuotas quotas;
  // By which ranks verify the coordinator, and (where it asks for one) what they show it; paths that
  // ranks can read. Empty: no TLS.
  std::string ranks_ca;
  std::string ranks_certificate;
  std::string ranks_key;
  std::map<std::string, std::string>
      rank_environment;                 // what ranks get beside what the attempt needs
  bool preempt = false;                 // jobs of lower priority make room
  std::chrono::milliseconds min_run{};  // but none before it did steps for so long
  // Where a job asks for no thread count: what the coordinator was told for each rank, or (0) the
  // share of the cores that a slot has.
  int threads_per_rank = 0;
  int cores = 1;
  // Told of the preflight of each attempt that made one; may be empty.
  std::function<void(const v1::PreflightReport&)> on_preflight = {};
  // Deletes a folder; slow where the folder is large.
  std::function<Status(const std::filesystem::path&)> remove_folder = emoe::remove_tree;
  std::chrono::milliseconds join_timeout{};
  std::chrono::milliseconds session_timeout{};
  std::chrono::milliseconds progress_timeout{};
  std::chrono::milliseconds stop_grace{};
  std::chrono::milliseconds reconnect_grace{};
  std::chrono::milliseconds retry_pause{};
  std::chrono::milliseconds host_pause{};
  std::chrono::milliseconds elastic_wait{};
  std::chrono::milliseconds poll_interval{200};

  [[nodiscard]] std::filesystem::path jobs_dir() const {
    return jobs_root.empty() ? state_dir / "jobs" : jobs_root;
  }
  [[nodiscard]] std::filesystem::path job_dir(const std::string& job_id) const {
    return jobs_dir() / job_id;
  }
  // The job's spec, read by the ranks of all its attempts.
  [[nodiscard]] std::filesystem::path spec_file(const std::string& job_id) const {
    return job_dir(job_id) / "job.yaml";
  }
  [[nodiscard]] std::filesystem::path attempt_dir(const std::string& job_id, int attempt) const {
    return job_dir(job_id) / ("attempt_" + std::to_string(attempt));
  }
};

// Threads of a rank whose job does not say how many.
[[nodiscard]] inline int threads_of(const ControlConfig& config) {
  if (config.threads_per_rank > 0) return config.threads_per_rank;
  const int slots = std::max(static_cast<int>(config.capacity.cpus), 1);
  return std::max(config.cores / slots, 1);  // other jobs have the other slots
}

}  // namespace emoe::server
