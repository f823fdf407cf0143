#include "server/control/project_quota.h"

#include <map>
#include <set>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <sys/stat.h>

#include "server/job/errors.h"

namespace emoe::server {

ProjectQuota quota_of(const ProjectQuotas& quotas, const std::string& project) {
  const auto found = quotas.find(project);
  if (found != quotas.end()) return found->second;
  const auto common = quotas.find("");
  return common == quotas.end() ? ProjectQuota() : common->second;
}

Status quota_exceeded(const std::string& project, const std::string& what, int64_t limit,
                      const std::string& why, bool passes) {
  std::map<std::string, std::string> metadata{
      {"quota", absl::StrCat("projects/", project, "/", what)}, {"limit", absl::StrCat(limit)}};
  if (passes) metadata["retry_milliseconds"] = "30000";
  return make_error(StatusCode::kResourceExhausted, "QUOTA_EXCEEDED",
                    absl::StrCat("project \"", project, "\" may have ", limit,
                                 " (auth.quotas: ", what, "): ", why),
                    std::move(metadata));
}

int64_t bytes_below(const std::vector<std::filesystem::path>& folders) {
  namespace fs = std::filesystem;
  int64_t bytes = 0;
  std::set<std::pair<uint64_t, uint64_t>> seen;  // exports have links to files of checkpoints
  for (const fs::path& folder : folders) {
    std::error_code error;
    fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied,
                                           error);
    while (!error && entry != fs::recursive_directory_iterator()) {
      struct stat info {};
      if (::lstat(entry->path().c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
          seen.emplace(info.st_dev, info.st_ino).second) {
        bytes += info.st_size;
      }
      entry.increment(error);
    }
  }
  return bytes;
}

}  // namespace emoe::server
