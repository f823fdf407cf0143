#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "emoe/v1/fine_tuning_service.pb.h"
#include "server/security/security_probe.h"

namespace emoe::server {

// A file with a line of JSON (v1::AuditEntry) for each mutating call and job that it concerns, this user's
// alone. Lines are only
// ever appended; when the file is renamed (logrotate) a new one is begun, and list() then sees that one. A
// line that cannot be written (full disk) is kept and written first of all later; until then ready() fails.
// Lines survive the end of the process; the last moments before a power cut may be lost. Thread-safe.
class AuditLog {
 public:
  [[nodiscard]] static Result<std::unique_ptr<AuditLog>> open(std::filesystem::path file,
                                                              SecurityProbe& probe);

  // UNAVAILABLE / AUDIT_FAILED while earlier lines cannot be written: nothing is to be changed then.
  [[nodiscard]] Status ready();
  void append(const v1::AuditEntry& entry);
  // A line for each of these jobs, in one write; `entry` has no job of its own. Ids have nothing in them that
  // JSON would write differently.
  void append(v1::AuditEntry entry, const std::vector<std::string>& job_ids);

  // Where a page ends, from the newest line on: a place in a file that has not been renamed since.
  struct Cursor {
    uint64_t inode = 0;
    int64_t end = 0;
  };
  struct Page {
    std::vector<v1::AuditEntry> entries;  // newest first
    std::optional<Cursor> next;           // absent on the last page
  };
  // At most `size` of the entries whose fields have the values of `wanted` ("principal" → "ci"). A page
  // may have fewer than there are: it looks at a part of a long file. Nothing where `after` is of a file
  // that was renamed since. INTERNAL / STORE_FAILED where the file cannot be read.
  [[nodiscard]] Result<std::optional<Page>> list(const std::map<std::string, std::string>& wanted,
                                                 const std::optional<Cursor>& after, int size);

 private:
  AuditLog(std::filesystem::path file, SecurityProbe& probe)
      : file_(std::move(file)), probe_(probe) {}
  [[nodiscard]] Status reopen_locked();
  [[nodiscard]] Status write_locked(const std::string& line);
  [[nodiscard]] Status flush_locked();
  void append_lines(std::string lines);

  const std::filesystem::path file_;
  SecurityProbe& probe_;
  std::mutex mutex_;
  FileDescriptor fd_;
  std::deque<std::string> pending_;
};

}  // namespace emoe::server
