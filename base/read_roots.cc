#include "base/read_roots.h"

#include <algorithm>
#include <optional>
#include <string>

#include <absl/strings/str_cat.h>

namespace emoe {
namespace {

namespace fs = std::filesystem;

// Set once, before there are threads.
std::optional<std::vector<fs::path>>& process_roots() {
  static std::optional<std::vector<fs::path>> roots;
  return roots;
}

thread_local const ReadScope* current_scope = nullptr;

// Of a root that is not there yet, too: should it become a link, nothing lies below its name.
std::vector<fs::path> resolved(const std::vector<fs::path>& roots) {
  std::vector<fs::path> real;
  for (const fs::path& root : roots) {
    std::error_code error;
    const fs::path canonical = fs::weakly_canonical(root, error);
    const fs::path& found = error ? root : canonical;
    real.push_back(found.has_filename() ? found : found.parent_path());
  }
  return real;
}

bool is_below_one(const fs::path& path, const std::vector<fs::path>& roots) {
  return roots.empty() || std::ranges::any_of(roots, [&](const fs::path& root) {
           return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first ==
                  root.end();
         });
}

}  // namespace

void restrict_reads(const std::vector<fs::path>& roots) {
  process_roots() = resolved(roots);
}

ReadScope::ReadScope(const std::vector<fs::path>& roots)
    : real_(resolved(roots)), outer_(current_scope) {
  current_scope = this;
}

ReadScope::~ReadScope() {
  current_scope = outer_;
}

Status check_opened(int fd, const fs::path& path) {
  const auto& process = process_roots();
  if (!process && current_scope == nullptr) return ok_status();
  const std::string& name = path.native();
  if (name.starts_with("/proc/") || name.starts_with("/sys/")) return ok_status();
  std::error_code error;
  const fs::path real = fs::read_symlink(absl::StrCat("/proc/self/fd/", fd), error);
  bool allowed = !error && (!process || is_below_one(real, *process));
  for (const ReadScope* scope = current_scope; scope != nullptr; scope = scope->outer_) {
    allowed = allowed && is_below_one(real, scope->real_);
  }
  if (allowed) return ok_status();
  return absl::PermissionDeniedError(
      absl::StrCat("cannot open ", name, ": it leads out of the allowed folders"));
}

}  // namespace emoe
