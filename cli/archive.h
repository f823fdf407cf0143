#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/status.h"

namespace emoe::cli {

// A .tar.gz (POSIX ustar, as every tar reads it) written file by file. The file has its name once
// finish() says so: before that it is NAME.tmp, and it is removed when the archive is given up.
class Archive {
 public:
  explicit Archive(std::filesystem::path path);
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;
  ~Archive();

  // `name`: relative, at most 100 bytes. `time`: in seconds since the epoch. The first error is kept.
  void add(const std::string& name, const std::string& content, int64_t time);
  // RESOURCE_EXHAUSTED, PERMISSION_DENIED, … as the file system says.
  [[nodiscard]] Status finish();

 private:
  void write(const std::string& bytes);
  const std::filesystem::path path_;
  const std::filesystem::path temporary_;
  void* file_ = nullptr;  // gzFile
  Status status_;
};

}  // namespace emoe::cli
