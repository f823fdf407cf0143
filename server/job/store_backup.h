#pragma once

#include <filesystem>
#include <string>

#include "base/clock.h"
#include "base/status.h"

namespace emoe::server {

// A copy of the database that was checked and is on disk.
struct Backup {
  std::filesystem::path path;
  int64_t bytes = 0;
  std::string sha256;  // hexadecimal
  WallTime time;       // all that was committed before this is in it
};

// Copies `database` as it is at one moment, while others write to it, to a new file
// <folder>/jobs-<time>.db with its sum beside it (….db.sha256, as `sha256sum -c` reads it), for this
// user alone. RESOURCE_EXHAUSTED / DISK_TOO_SMALL where the folder's disk has no room for it. What an
// interrupted copy left is removed by the next one, so one runs at a time.
[[nodiscard]] Result<Backup> back_up(const std::filesystem::path& database,
                                     const std::filesystem::path& folder, WallTime now);

}  // namespace emoe::server
