#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace emoe {

// Writes a large file front to back and makes its SHA-256 meanwhile. The caller's bytes are copied into
// blocks, which threads of this object hash and write, so that the caller, the hash and the disk work side
// by side. The blocks go past the page cache where the file system lets them (O_DIRECT): copying into pages
// costs as much as hashing where the system has to find them first, and who reads the file back then sees
// what the disk holds. Where it does not, they are written as FileWriter writes. Used by one caller.
//
// A writer that is destroyed before close() leaves an unfinished file.
class HashedFileWriter {
 public:
  static constexpr size_t kBlock = 2 << 20;
  static constexpr size_t kBlocks = 8;  // so many bytes are held: kBlock * kBlocks

  // Of `size` bytes, for which room is made at once where the file system can. RESOURCE_EXHAUSTED where
  // there is none, which says how much is missing.
  [[nodiscard]] static Result<HashedFileWriter> create(const std::filesystem::path& path,
                                                       uint64_t size);
  HashedFileWriter(HashedFileWriter&& other) noexcept;
  HashedFileWriter& operator=(HashedFileWriter&& other) noexcept;
  ~HashedFileWriter();

  // An error may be that of a block before. RESOURCE_EXHAUSTED when the disk is full.
  [[nodiscard]] Status write(const void* data, size_t size);
  [[nodiscard]] Status write(std::string_view text) { return write(text.data(), text.size()); }
  // Flushes to the disk (fsync) and reports every late error; INVALID_ARGUMENT where not as many bytes were
  // written as create() was told.
  [[nodiscard]] Status close();
  // 64 lower-case hexadecimal digits; after close().
  [[nodiscard]] const std::string& sha256() const;

 private:
  class Threads;
  explicit HashedFileWriter(std::unique_ptr<Threads> threads);
  std::unique_ptr<Threads> threads_;
};

}  // namespace emoe
