#pragma once

#include <filesystem>
#include <vector>

#include "base/status.h"

namespace emoe {

// Below which folders base/file.h opens files for reading. What was checked by its path may be another file by the
// time it is opened, if somebody puts a link in its way; so a file is asked where it really lies once it is
// open. Files that this program itself names in /proc and /sys are left alone.

// For the whole process: like its umask, set by main before there are threads. No roots: anywhere.
void restrict_reads(const std::vector<std::filesystem::path>& roots);

// For the calling thread, until the object's end, beside what holds already; no roots: no further limit.
class ReadScope {
 public:
  explicit ReadScope(const std::vector<std::filesystem::path>& roots);
  ReadScope(const ReadScope&) = delete;
  ReadScope& operator=(const ReadScope&) = delete;
  ~ReadScope();

 private:
  const std::vector<std::filesystem::path> real_;
  const ReadScope* const outer_;
  friend Status check_opened(int fd, const std::filesystem::path& path);
};

// PERMISSION_DENIED where the open file of this name lies elsewhere.
[[nodiscard]] Status check_opened(int fd, const std::filesystem::path& path);

}  // namespace emoe
