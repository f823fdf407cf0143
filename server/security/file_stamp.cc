#include "server/security/file_stamp.h"

#include <chrono>

#include <sys/stat.h>

namespace emoe::server {

FileStamp stamp_of(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return {};
  return {.device = info.st_dev,
          .inode = info.st_ino,
          .size = info.st_size,
          .changed_nanoseconds = info.st_ctim.tv_sec * 1'000'000'000LL + info.st_ctim.tv_nsec};
}

bool FileStamp::is_settled() const {
  // File systems count time in ticks of up to 10 ms.
  constexpr int64_t kTick = 50'000'000;
  const auto now = std::chrono::duration_cast<std::chrono::nanoseconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  return now - changed_nanoseconds > kTick;
}

}  // namespace emoe::server
