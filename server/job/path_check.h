#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "base/diagnostics.h"

namespace emoe::server {

// The folders where specs may name files, links resolved; one that cannot be resolved allows nothing.
class AllowedRoots {
 public:
  explicit AllowedRoots(const std::vector<std::filesystem::path>& roots);

  [[nodiscard]] bool any_path() const { return given_.empty(); }
  [[nodiscard]] bool allow(const std::filesystem::path& path) const;
  [[nodiscard]] std::string text() const;  // for people

 private:
  std::vector<std::filesystem::path> given_;
  std::vector<std::filesystem::path> real_;
};

// Checks the paths of a spec, one after the other: absolute, readable, and within the roots, the files
// in a folder too. Faults go to `diagnostics`.
class PathCheck {
 public:
  PathCheck(const std::vector<std::filesystem::path>& roots, Diagnostics& diagnostics)
      : roots_(roots), diagnostics_(diagnostics) {}

  // The path the spec is to have: with allowed roots, the one that its links lead to.
  std::string operator()(const std::string& key, const std::filesystem::path& path);
  [[nodiscard]] bool usable(const std::string& key) const { return usable_.contains(key); }

 private:
  // Empty for what can be used.
  [[nodiscard]] std::string fault_of(const std::string& key,
                                     const std::filesystem::path& path) const;
  [[nodiscard]] std::string fault_in_suite(const std::filesystem::path& suite) const;
  [[nodiscard]] std::string fault_in_folder(const std::filesystem::path& folder) const;
  [[nodiscard]] std::string outside(const std::filesystem::path& path) const;

  const AllowedRoots roots_;
  Diagnostics& diagnostics_;
  std::set<std::string> usable_;
};

}  // namespace emoe::server
