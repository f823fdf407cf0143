#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"

namespace emoe::server {

// What the jobs of a project may take together; 0: no limit.
struct ProjectQuota {
  int slots = 0;        // ranks that run at once; more wait
  int queued_jobs = 0;  // unfinished jobs; more are refused
  int64_t disk = 0;     // bytes of the output folders of its jobs that are kept; more are refused
};
using ProjectQuotas = std::map<std::string, ProjectQuota>;  // "": of each project without one

[[nodiscard]] ProjectQuota quota_of(const ProjectQuotas& quotas, const std::string& project);

// RESOURCE_EXHAUSTED / QUOTA_EXCEEDED: of `limit` `what`s ("slots", "queued_jobs", "disk"). `passes`: it may
// be otherwise later, so that the caller is told when to try again.
[[nodiscard]] Status quota_exceeded(const std::string& project, const std::string& what,
                                    int64_t limit, const std::string& why, bool passes = true);

// The files below these folders, links not followed, each once however many names it has there. What
// goes away meanwhile does not count.
[[nodiscard]] int64_t bytes_below(const std::vector<std::filesystem::path>& folders);

}  // namespace emoe::server
