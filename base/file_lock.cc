#include "base/file_lock.h"

#include <cerrno>

#include <fcntl.h>
#include <sys/file.h>

namespace emoe {
namespace {

Result<FileDescriptor> open_lock_file(const std::filesystem::path& file) {
  FileDescriptor fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return errno_status(errno, "cannot open the lock file " + file.string());
  return fd;
}

// Whether the lock was got; false when somebody else holds it and `operation` does not wait.
Result<bool> lock(const FileDescriptor& fd, int operation, const std::filesystem::path& file) {
  while (::flock(fd.get(), operation) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return false;
    return errno_status(errno, "cannot lock " + file.string());
  }
  return true;
}

}  // namespace

Result<FileLock> FileLock::acquire(const std::filesystem::path& file) {
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, open_lock_file(file));
  EMOE_RETURN_IF_ERROR(lock(fd, LOCK_EX, file).status());
  return FileLock(std::move(fd));
}

Result<std::optional<FileLock>> FileLock::try_acquire(const std::filesystem::path& file) {
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, open_lock_file(file));
  EMOE_ASSIGN_OR_RETURN(const bool got, lock(fd, LOCK_EX | LOCK_NB, file));
  if (!got) return std::optional<FileLock>();
  return std::optional<FileLock>(FileLock(std::move(fd)));
}

Result<bool> FileLock::is_held(const std::filesystem::path& file) {
  EMOE_ASSIGN_OR_RETURN(const FileDescriptor fd, open_lock_file(file));
  EMOE_ASSIGN_OR_RETURN(const bool got, lock(fd, LOCK_SH | LOCK_NB, file));
  return !got;
}

}  // namespace emoe
