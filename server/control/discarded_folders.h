#pragma once

#include <filesystem>
#include <functional>
#include <stop_token>
#include <utility>
#include <vector>

#include "base/status.h"

namespace emoe::server {

// Folders to be deleted in two steps: renamed, which is quick, and then removed, which is slow where
// they are large. After a crash between the two, leftovers() finds them at the next start.
class DiscardedFolders {
 public:
  using Remove = std::function<Status(const std::filesystem::path&)>;  // emoe::remove_tree

  explicit DiscardedFolders(Remove remove) : remove_(std::move(remove)) {}

  // Renames the folder to ".deleted-<name>" beside itself. OK where there is none.
  [[nodiscard]] Status take(const std::filesystem::path& folder);
  // Renames all of them back; for a deletion that could not be recorded.
  void put_back();
  // Deletes them; what cannot be deleted is logged and stays for the next start.
  void remove(const std::stop_token& stop = {});

  [[nodiscard]] static DiscardedFolders leftovers(
      Remove remove, const std::vector<std::filesystem::path>& parents);
  [[nodiscard]] bool empty() const { return moved_.empty(); }

 private:
  Remove remove_;
  std::vector<std::pair<std::filesystem::path, std::filesystem::path>> moved_;  // from, to
};

}  // namespace emoe::server
