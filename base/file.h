#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace emoe {

// Owns a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

// A whole file mapped read-only; the mapping lives as long as the object. Thread-safe. A file that
// somebody cuts short meanwhile ends the process (SIGBUS): where that must not be, FileReader.
class MappedFile {
 public:
  // NOT_FOUND (a link to nothing says where it points), PERMISSION_DENIED, or what open/mmap say;
  // INVALID_ARGUMENT for a folder, FIFO or device. An empty file maps to an empty span.
  [[nodiscard]] static Result<MappedFile> open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  // What was read of it need not stay in this process's memory; it can be read again at any time.
  void release() const;

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Reads a file front to back, or from an offset on. A file that shrinks meanwhile ends earlier.
class FileReader {
 public:
  // Errors as for MappedFile.
  [[nodiscard]] static Result<FileReader> open(const std::filesystem::path& path);
  [[nodiscard]] Status seek(uint64_t offset);
  // At most `size` bytes; 0 at the end.
  [[nodiscard]] Result<size_t> read(char* data, size_t size);
  // The file's first bytes, `size` or all it has; read() goes on where it was.
  [[nodiscard]] Result<std::string> front(size_t size) const;
  [[nodiscard]] uint64_t size() const { return size_; }  // when it was opened
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  FileReader(FileDescriptor fd, std::string path, uint64_t size)
      : fd_(std::move(fd)), path_(std::move(path)), size_(size) {}
  FileDescriptor fd_;
  std::string path_;
  uint64_t size_;
};

// Writes a file front to back. close() flushes to the disk (fsync) and reports every late error;
// a writer destroyed before close() leaves an unfinished file, which callers keep under a
// temporary name until it is whole.
class FileWriter {
 public:
  [[nodiscard]] static Result<FileWriter> create(const std::filesystem::path& path);
  [[nodiscard]] Status write(const void* data,
                             size_t size);  // RESOURCE_EXHAUSTED when the disk is full
  [[nodiscard]] Status write(std::string_view text) { return write(text.data(), text.size()); }
  [[nodiscard]] Status close();
  [[nodiscard]] uint64_t size() const { return size_; }

 private:
  FileWriter(FileDescriptor fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  [[nodiscard]] Status start_writing(uint64_t begin, uint64_t size);
  FileDescriptor fd_;
  std::string path_;
  uint64_t size_ = 0;
  uint64_t started_ = 0;  // of size_, the part that is on its way to the disk
};

// Errors as for MappedFile; INVALID_ARGUMENT for a file of more than `most` bytes. Reads /proc and /sys too.
[[nodiscard]] Result<std::string> read_file(const std::filesystem::path& path,
                                            size_t most = std::numeric_limits<size_t>::max());
// The same for what a reader has not read yet.
[[nodiscard]] Result<std::string> read_rest(FileReader& file, size_t most);

// Readers see the old content or the new, never a part: temporary file, fsync, rename, fsync of the
// folder.
[[nodiscard]] Status write_file_atomically(const std::filesystem::path& path,
                                           std::string_view content);

// Appends in one write(2); used for line-based logs such as metrics.jsonl.
[[nodiscard]] Status append_to_file(const std::filesystem::path& path, std::string_view content);

// Once this returns OK, what was appended survives a power cut (if the name of the file does).
[[nodiscard]] Status sync_file(const std::filesystem::path& path);

// `path`, below `base` where it is relative, without "." and superfluous slashes. ".." stays: behind a
// symbolic link it leads elsewhere than the text says.
[[nodiscard]] std::filesystem::path absolute_path(
    const std::filesystem::path& path,
    const std::filesystem::path& base = std::filesystem::current_path());

// Makes the folder and those above it that are missing; their names survive a power cut.
[[nodiscard]] Status create_directories(const std::filesystem::path& path);
[[nodiscard]] Status sync_directory(const std::filesystem::path& path);
// rename(2), then fsync of the parent: once this returns OK the new name survives a power cut.
[[nodiscard]] Status rename_durably(const std::filesystem::path& from,
                                    const std::filesystem::path& to);
[[nodiscard]] Status remove_tree(const std::filesystem::path& path);

}  // namespace emoe
