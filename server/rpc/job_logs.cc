#include "server/rpc/job_logs.h"

#include <cerrno>
#include <fstream>

#include "base/utf8.h"

namespace emoe::server {

Result<LogTail> read_log_tail(const std::filesystem::path& path, size_t bytes) {
  std::error_code missing;
  if (!std::filesystem::exists(path, missing)) return LogTail{};
  errno = 0;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return errno_status(errno != 0 ? errno : EIO, "open " + path.string());
  const auto size = static_cast<size_t>(file.tellg());
  const size_t take = std::min(size, bytes);
  file.seekg(static_cast<std::streamoff>(size - take));
  LogTail tail;
  tail.truncated = take < size;
  tail.text.resize(take);
  file.read(tail.text.data(), static_cast<std::streamsize>(take));
  tail.text.resize(static_cast<size_t>(file.gcount()));
  if (tail.truncated) {
    const size_t line = tail.text.find('\n');
    if (line != std::string::npos && line + 1 < tail.text.size()) tail.text.erase(0, line + 1);
  }
  tail.text = to_valid_utf8(tail.text);
  return tail;
}

}  // namespace emoe::server
