#pragma once

#include <chrono>
#include <filesystem>
#include <string>

namespace emoe::server {

// What the controller needs to know of its installation; main makes it from CoordinatorConfig, whose
// defaults are those of config/schema.cc.
struct ControlConfig {
  std::filesystem::path state_dir;
  std::filesystem::path output_root;     // output folders are <output_root>/<job id>
  std::filesystem::path worker_program;  // emoe-worker
  int slots_total = 1;                   // ranks that may run at once
  int max_jobs = 1000;                   // unfinished jobs
  int cores = 1;                         // shared by the ranks where a job asks for no thread count
  std::chrono::milliseconds join_timeout{};
  std::chrono::milliseconds session_timeout{};
  std::chrono::milliseconds progress_timeout{};
  std::chrono::milliseconds stop_grace{};
  std::chrono::milliseconds reconnect_grace{};
  std::chrono::milliseconds retry_pause{};
  std::chrono::milliseconds poll_interval{200};
};

}  // namespace emoe::server
