#pragma once

#include <chrono>
#include <filesystem>
#include <string>

namespace emoe::server {

// What the controller needs to know of its installation; main makes it from CoordinatorConfig.
struct ControlConfig {
  std::filesystem::path state_dir;
  std::filesystem::path output_root;     // output folders are <output_root>/<job id>
  std::filesystem::path worker_program;  // emoe-worker
  int slots_total = 1;                   // ranks that may run at once
  int max_jobs = 1000;                   // unfinished jobs
  int cores = 1;                         // shared by the ranks where a job asks for no thread count
  std::chrono::milliseconds join_timeout{120'000};
  std::chrono::milliseconds session_timeout{30'000};
  std::chrono::milliseconds progress_timeout{300'000};
  std::chrono::milliseconds stop_grace{30'000};
  std::chrono::milliseconds reconnect_grace{600'000};
  std::chrono::milliseconds retry_pause{5'000};
  std::chrono::milliseconds poll_interval{200};
};

}  // namespace emoe::server
