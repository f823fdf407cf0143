#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "base/status.h"
#include "emoe/v1/job.pb.h"
#include "server/job/planner.h"

namespace emoe::server {

// The kinds of GPU that ranks have told of in their preflights (task: preflight, resources.preflight), with
// the most memory that one of each had free; kept in a file, for the plans of later jobs. Thread-safe.
class GpuTypes {
 public:
  // A file that is damaged, or not there, is begun anew.
  explicit GpuTypes(std::filesystem::path file);

  // Takes from a report what it says of GPUs. Errors: the file could not be written.
  [[nodiscard]] Status learn(const v1::PreflightReport& report);
  // The kind with least memory, on which a job that may be placed on any must fit; none is known: no name.
  [[nodiscard]] GpuType smallest() const;

 private:
  const std::filesystem::path file_;
  mutable std::mutex mutex_;
  std::map<std::string, int64_t> bytes_;  // by name
};

}  // namespace emoe::server
