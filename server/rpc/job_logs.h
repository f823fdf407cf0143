#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"

namespace emoe::server {

struct LogTail {
  std::string text;        // UTF-8, invalid bytes replaced
  bool truncated = false;  // earlier output was left out
};

// The end of a file: at most `bytes` of it, from the beginning of a line where it is cut. A file
// that is not there yet is empty.
[[nodiscard]] Result<LogTail> read_log_tail(const std::filesystem::path& path, size_t bytes);

}  // namespace emoe::server
