#include "server/job/path_check.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <unistd.h>

#include "base/input_file.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

bool is_below(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

}  // namespace

AllowedRoots::AllowedRoots(const std::vector<fs::path>& roots) : given_(roots) {
  for (const fs::path& root : roots) {
    std::error_code error;
    const fs::path real = fs::canonical(root, error);
    if (!error) real_.push_back(real);
  }
}

bool AllowedRoots::allow(const fs::path& path) const {
  if (any_path()) return true;
  std::error_code error;
  const fs::path real = fs::weakly_canonical(path, error);
  return !error && std::any_of(real_.begin(), real_.end(),
                               [&](const fs::path& root) { return is_below(real, root); });
}

std::string AllowedRoots::text() const {
  return absl::StrJoin(given_, ", ", [](std::string* out, const fs::path& root) {
    absl::StrAppend(out, root.string());
  });
}

std::string PathCheck::operator()(const std::string& key, const fs::path& path) {
  const std::string reason = fault_of(key, path);
  if (reason.empty()) {
    usable_.insert(key);
  } else {
    diagnostics_.add(key, reason);
  }
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  return roots_.any_path() || error ? path.string() : real.string();
}

std::string PathCheck::fault_of(const std::string& key, const fs::path& path) const {
  if (!path.is_absolute()) {
    return absl::StrCat("'", path.string(),
                        "' must be an absolute path on the coordinator's file system");
  }
  if (!roots_.allow(path)) return outside(path);
  if (::access(path.c_str(), R_OK) != 0) {
    const std::string reason = std::strerror(errno);
    const std::string why = why_not_there(path);
    return absl::StrCat("cannot read '", path.string(), "': ", why.empty() ? reason : why);
  }
  std::error_code error;
  if (fs::is_directory(path, error)) {
    return key == "evaluate.path" ? fault_in_suite(path) : fault_in_folder(path);
  }
  // The files beside a tokenizer.model go into the exported folder.
  return key == "model.init.tokenizer" ? fault_in_folder(path.parent_path()) : "";
}

std::string PathCheck::fault_in_suite(const fs::path& suite) const {
  std::error_code error;
  for (const fs::directory_entry& part : fs::directory_iterator(suite, error)) {
    if (!part.is_directory(error)) continue;
    std::string fault = roots_.allow(part.path()) ? fault_in_folder(part) : outside(part);
    if (!fault.empty()) return fault;
  }
  return "";
}

// Links in a folder may lead out of the roots as well; files of other kinds are never read.
std::string PathCheck::fault_in_folder(const fs::path& folder) const {
  if (roots_.any_path()) return "";
  static const std::set<std::string> kRead{".json", ".safetensors", ".model", ".jinja", ".csv"};
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const fs::path& file = entry.path();
    if (kRead.contains(file.extension().string()) && !roots_.allow(file)) return outside(file);
  }
  return error ? absl::StrCat("cannot read '", folder.string(), "': ", error.message()) : "";
}

std::string PathCheck::outside(const fs::path& path) const {
  return absl::StrCat("'", path.string(), "' lies outside the allowed folders: ", roots_.text());
}

}  // namespace emoe::server
