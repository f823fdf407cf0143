#include "base/file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/input_file.h"
#include "base/read_roots.h"

namespace emoe {
namespace {

Status file_error(const std::string& what, const std::filesystem::path& path) {
  return errno_status(errno, absl::StrCat(what, " ", path.string()));
}

Result<FileDescriptor> open_file(const std::filesystem::path& path, int flags) {
  FileDescriptor fd(::open(path.c_str(), flags | O_CLOEXEC, 0644));
  if (!fd.valid()) return file_error("cannot open", path);
  return fd;
}

// For reading. A FIFO or a device would block, or never end: only what has a size is a file.
Result<FileDescriptor> open_regular(const std::filesystem::path& path, struct stat& info) {
  Result<FileDescriptor> opened = open_file(path, O_RDONLY | O_NONBLOCK);
  if (!opened.ok()) {
    const std::string why = why_not_there(path);
    if (!why.empty()) {
      return Status(opened.status().code(), absl::StrCat("cannot open ", path.string(), ": ", why));
    }
  }
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, std::move(opened));
  EMOE_RETURN_IF_ERROR(check_opened(fd.get(), path));
  if (::fstat(fd.get(), &info) != 0) return file_error("cannot stat", path);
  if (S_ISREG(info.st_mode)) return fd;
  return absl::InvalidArgumentError(absl::StrCat(path.string(), S_ISDIR(info.st_mode)
                                                                    ? " is a folder, not a file"
                                                                    : " is not a regular file"));
}

Status write_all(int fd, const void* data, size_t size, const std::string& path) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(fd, at, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return file_error("cannot write", path);
    at += written;
    size -= static_cast<size_t>(written);
  }
  return ok_status();
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void FileDescriptor::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  struct stat info {};
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, open_regular(path, info));
  if (info.st_size == 0) return MappedFile(nullptr, 0);
  const auto size = static_cast<size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) return file_error("cannot map", path);
  return MappedFile(static_cast<const std::byte*>(data), size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release() const {
  // Advice: where it is not taken, the pages stay until the kernel wants them.
  if (data_ != nullptr) (void)::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

Result<FileReader> FileReader::open(const std::filesystem::path& path) {
  struct stat info {};
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, open_regular(path, info));
  return FileReader(std::move(fd), path.string(), static_cast<uint64_t>(info.st_size));
}

Status FileReader::seek(uint64_t offset) {
  const auto at = ::lseek(fd_.get(), static_cast<off_t>(offset), SEEK_SET);
  return at < 0 ? file_error("cannot read", path_) : ok_status();
}

Result<size_t> FileReader::read(char* data, size_t size) {
  while (true) {
    const ssize_t got = ::read(fd_.get(), data, size);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) return file_error("cannot read", path_);
  }
}

Result<std::string> FileReader::front(size_t size) const {
  std::string bytes(size, '\0');
  size_t filled = 0;
  while (filled < size) {
    const ssize_t got =
        ::pread(fd_.get(), bytes.data() + filled, size - filled, static_cast<off_t>(filled));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return file_error("cannot read", path_);
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

Result<FileWriter> FileWriter::create(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, open_file(path, O_WRONLY | O_CREAT | O_TRUNC));
  return FileWriter(std::move(fd), path.string());
}

Status FileWriter::write(const void* data, size_t size) {
  // The disk works while the caller makes what comes next. At most two pieces are under way: close()
  // would wait for all that fits into the system's memory otherwise, without a sign of life.
  constexpr uint64_t kPiece = 32 << 20;
  const char* rest = static_cast<const char*>(data);
  while (size > 0) {
    const auto now = static_cast<size_t>(std::min<uint64_t>(size, started_ + kPiece - size_));
    EMOE_RETURN_IF_ERROR(write_all(fd_.get(), rest, now, path_));
    rest += now;
    size -= now;
    size_ += now;
    if (size_ - started_ < kPiece) continue;
    EMOE_RETURN_IF_ERROR(start_writing(started_, kPiece));
    started_ += kPiece;
  }
  return ok_status();
}

Status FileWriter::start_writing(uint64_t begin, uint64_t size) {
  const auto sync = [&](uint64_t from, unsigned flags) {
    const int done =
        ::sync_file_range(fd_.get(), static_cast<off_t>(from), static_cast<off_t>(size), flags);
    // A file system that cannot is no fault: close() flushes everything.
    return done == 0 || errno == ESPIPE || errno == EINVAL || errno == ENOSYS;
  };
  bool done = sync(begin, SYNC_FILE_RANGE_WRITE);
  if (done && begin >= size) {
    done = sync(begin - size,
                SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  }
  return done ? ok_status() : file_error("cannot flush", path_);
}

Status FileWriter::close() {
  if (::fsync(fd_.get()) != 0) return file_error("cannot flush", path_);
  fd_.reset();
  return ok_status();
}

Result<std::string> read_file(const std::filesystem::path& path, size_t most) {
  EMOE_ASSIGN_OR_RETURN(FileReader file, FileReader::open(path));
  return read_rest(file, most);
}

Result<std::string> read_rest(FileReader& file, size_t most) {
  std::string content;
  while (true) {
    const size_t begin = content.size();
    const size_t chunk = std::clamp<size_t>(begin, 4 << 10, 256 << 10);
    content.resize(begin + chunk);
    EMOE_ASSIGN_OR_RETURN(const size_t got, file.read(content.data() + begin, chunk));
    content.resize(begin + got);
    if (content.size() > most) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), " is larger than ", most, " bytes"));
    }
    if (got == 0) return content;
  }
}

Status write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  const std::filesystem::path temporary = absl::StrCat(path.string(), ".tmp.", ::getpid());
  const auto write = [&]() -> Status {
    EMOE_ASSIGN_OR_RETURN(FileWriter writer, FileWriter::create(temporary));
    EMOE_RETURN_IF_ERROR(writer.write(content));
    EMOE_RETURN_IF_ERROR(writer.close());
    return rename_durably(temporary, path);
  };
  Status status = write();
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

Status append_to_file(const std::filesystem::path& path, std::string_view content) {
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, open_file(path, O_WRONLY | O_CREAT | O_APPEND));
  return write_all(fd.get(), content.data(), content.size(), path.string());
}

Status sync_file(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, open_file(path, O_RDONLY));
  if (::fsync(fd.get()) != 0) return file_error("cannot flush", path);
  return ok_status();
}

std::filesystem::path absolute_path(const std::filesystem::path& path,
                                    const std::filesystem::path& base) {
  std::filesystem::path result;
  for (const std::filesystem::path& part : base / path) {
    if (part != ".") result /= part;
  }
  return result.has_filename() ? result : result.parent_path();
}

Status create_directories(const std::filesystem::path& path) {
  std::error_code error;
  std::vector<std::filesystem::path> parents;  // of what is missing, innermost first
  for (auto missing = absolute_path(path);
       missing.has_relative_path() && !std::filesystem::exists(missing, error);
       missing = missing.parent_path()) {
    parents.push_back(missing.parent_path());
  }
  std::filesystem::create_directories(path, error);
  if (error)
    return errno_status(error.value(), absl::StrCat("cannot create folder ", path.string()));
  for (const auto& parent : parents) EMOE_RETURN_IF_ERROR(sync_directory(parent));
  return ok_status();
}

Status sync_directory(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(FileDescriptor fd, open_file(path, O_RDONLY | O_DIRECTORY));
  if (::fsync(fd.get()) != 0) return file_error("cannot flush folder", path);
  return ok_status();
}

Status rename_durably(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return errno_status(errno, absl::StrCat("cannot rename ", from.string(), " to ", to.string()));
  }
  const std::filesystem::path parent = to.parent_path();
  return sync_directory(parent.empty() ? "." : parent);
}

Status remove_tree(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return errno_status(error.value(), absl::StrCat("cannot remove ", path.string()));
  return ok_status();
}

}  // namespace emoe
