#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>

namespace emoe::server {

// By which a change of a file is seen, links followed: a new file under the name (as editors and
// Kubernetes' secrets make one), another size, another time.
struct FileStamp {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t size = -1;  // -1: there is none that could be asked about
  int64_t changed_nanoseconds = 0;
  auto operator<=>(const FileStamp&) const = default;

  // False where the file changed so recently that a further change might not be told from this one by
  // its time: what was read with it is read again.
  [[nodiscard]] bool is_settled() const;
};

[[nodiscard]] FileStamp stamp_of(const std::filesystem::path& file);

}  // namespace emoe::server
