#pragma once

#include <filesystem>
#include <optional>

#include "base/file.h"
#include "base/status.h"

namespace emoe {

// An exclusive flock(2) on a file, held while the object lives and dropped by the kernel when the
// process dies, however it dies. The file is made if it is not there, and stays. Between processes
// and between objects of one process alike.
//
// Errors: what open(2) says; UNAVAILABLE and the like where the file system has no locks.
class FileLock {
 public:
  // Waits until it is free.
  [[nodiscard]] static Result<FileLock> acquire(const std::filesystem::path& file);
  // Nothing when somebody else holds it.
  [[nodiscard]] static Result<std::optional<FileLock>> try_acquire(
      const std::filesystem::path& file);
  // Whether somebody holds it now; concurrent is_held() calls do not count as holders.
  [[nodiscard]] static Result<bool> is_held(const std::filesystem::path& file);

 private:
  explicit FileLock(FileDescriptor fd) : fd_(std::move(fd)) {}
  FileDescriptor fd_;
};

}  // namespace emoe
