#include "server/control/discarded_folders.h"

#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "base/log.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = ".deleted-";

}  // namespace

Status DiscardedFolders::take(const fs::path& folder) {
  const fs::path aside = folder.parent_path() / absl::StrCat(kPrefix, folder.filename().string());
  const Status moved = rename_durably(folder, aside);
  if (moved.code() == StatusCode::kNotFound) return ok_status();
  EMOE_RETURN_IF_ERROR(moved);
  moved_.emplace_back(folder, aside);
  return ok_status();
}

void DiscardedFolders::put_back() {
  for (const auto& [folder, aside] : moved_) {
    if (const Status status = rename_durably(aside, folder); !status.ok()) {
      log_error("%s", std::string(status.message()));
    }
  }
  moved_.clear();
}

void DiscardedFolders::remove(const std::stop_token& stop) {
  for (const auto& [folder, aside] : moved_) {
    if (stop.stop_requested()) return;
    if (const Status status = remove_(aside); !status.ok()) {
      log_warning("%s", std::string(status.message()));
    }
  }
  moved_.clear();
}

DiscardedFolders DiscardedFolders::leftovers(Remove remove, const std::vector<fs::path>& parents) {
  DiscardedFolders found(std::move(remove));
  for (const fs::path& parent : parents) {
    std::error_code none;  // no folder, no leftovers
    for (const auto& entry : fs::directory_iterator(parent, none)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(kPrefix)) continue;
      found.moved_.emplace_back(parent / name.substr(sizeof kPrefix - 1), entry.path());
    }
  }
  return found;
}

}  // namespace emoe::server
