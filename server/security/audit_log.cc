#include "server/security/audit_log.h"

#include <cerrno>

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "config/config.h"
#include "server/job/errors.h"

namespace emoe::server {
namespace {

constexpr int64_t kBlock = 64 << 10;
constexpr int64_t kLookedAt = 64 << 20;  // bytes of the file for one page

std::string value_of(const v1::AuditEntry& entry, const std::string& field) {
  const auto* descriptor = v1::AuditEntry::descriptor()->FindFieldByName(field);
  if (descriptor == nullptr) return "";
  return entry.GetReflection()->GetString(entry, descriptor);
}

bool matches(const v1::AuditEntry& entry, const std::map<std::string, std::string>& wanted) {
  for (const auto& [field, value] : wanted) {
    if (value_of(entry, field) != value) return false;
  }
  return true;
}

// The lines of a file before `end`, from the last one on.
class BackwardLines {
 public:
  BackwardLines(int fd, int64_t end) : fd_(fd), begin_(end), unread_(end) {}

  // False at the file's beginning. begin() is then where the line begins.
  [[nodiscard]] Result<bool> next(std::string& line) {
    while (true) {
      if (begin_ <= 0) return false;
      // The line's own end of line is left out of the search.
      const size_t from = buffer_.size() >= 2 ? buffer_.size() - 2 : std::string::npos;
      const size_t at = from == std::string::npos ? from : buffer_.rfind('\n', from);
      if (at != std::string::npos || unread_ == 0) {
        const size_t first = at == std::string::npos ? 0 : at + 1;
        line = buffer_.substr(first);
        buffer_.resize(first);
        begin_ -= static_cast<int64_t>(line.size());
        if (!line.empty() && line.back() == '\n') line.pop_back();
        return true;
      }
      EMOE_RETURN_IF_ERROR(read_block());
    }
  }
  [[nodiscard]] int64_t begin() const { return begin_; }

 private:
  Status read_block() {
    const int64_t size = std::min(kBlock, unread_);
    std::string block(static_cast<size_t>(size), '\0');
    const ssize_t got = ::pread(fd_, block.data(), block.size(), unread_ - size);
    if (got != size) return errno_status(got < 0 ? errno : EIO, "audit log");
    unread_ -= size;
    buffer_.insert(0, block);
    return ok_status();
  }

  const int fd_;
  int64_t begin_;
  int64_t unread_;  // of the file, before buffer_
  std::string buffer_;
};

}  // namespace

Result<std::unique_ptr<AuditLog>> AuditLog::open(std::filesystem::path file, SecurityProbe& probe) {
  auto log = std::unique_ptr<AuditLog>(new AuditLog(std::move(file), probe));
  const std::lock_guard lock(log->mutex_);
  EMOE_RETURN_IF_ERROR(with_context(log->reopen_locked(), "auth.audit"));
  return log;
}

// A link in its place would have us write into another file.
Status AuditLog::reopen_locked() {
  struct stat named {};
  struct stat ours {};
  if (fd_.valid() && ::lstat(file_.c_str(), &named) == 0 && ::fstat(fd_.get(), &ours) == 0 &&
      named.st_ino == ours.st_ino && named.st_dev == ours.st_dev) {
    return ok_status();
  }
  FileDescriptor fresh(
      ::open(file_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fresh.valid()) return errno_status(errno, "cannot open " + file_.string());
  if (::fstat(fresh.get(), &ours) != 0) return errno_status(errno, file_.string());
  if (!S_ISREG(ours.st_mode)) {
    return absl::InvalidArgumentError(file_.string() + " is not a regular file");
  }
  fd_ = std::move(fresh);
  // A line that a power cut has torn stays one line.
  char last = '\n';
  if (ours.st_size > 0 && ::pread(fd_.get(), &last, 1, ours.st_size - 1) == 1 && last != '\n') {
    return write_locked("\n");
  }
  return ok_status();
}

Status AuditLog::write_locked(const std::string& line) {
  const off_t end = ::lseek(fd_.get(), 0, SEEK_END);
  const ssize_t written = ::write(fd_.get(), line.data(), line.size());
  if (written == static_cast<ssize_t>(line.size())) return ok_status();
  const int error = written < 0 ? errno : ENOSPC;
  // Half a line would spoil the next one.
  if (written > 0 && ::ftruncate(fd_.get(), end) != 0)
    log_error("%s: a line is torn", file_.string());
  return errno_status(error, "cannot write " + file_.string());
}

Status AuditLog::flush_locked() {
  if (pending_.empty()) return ok_status();
  EMOE_RETURN_IF_ERROR(reopen_locked());
  while (!pending_.empty()) {
    EMOE_RETURN_IF_ERROR(write_locked(pending_.front()));
    pending_.pop_front();
  }
  return ok_status();
}

Status AuditLog::ready() {
  const std::lock_guard lock(mutex_);
  const Status flushed = flush_locked();
  if (flushed.ok()) return flushed;
  return make_error(StatusCode::kUnavailable, "AUDIT_FAILED",
                    absl::StrCat("nothing is changed while audit lines cannot be written: ",
                                 std::string(flushed.message())));
}

void AuditLog::append(const v1::AuditEntry& entry) {
  append_lines(config::message_to_json(entry, -1) + "\n");
}

// Only the id differs from line to line, and a thousand conversions would take longer than the jobs' commit.
void AuditLog::append(v1::AuditEntry entry, const std::vector<std::string>& job_ids) {
  constexpr char kPlace[] = "@";  // is in no id, and in no key
  entry.set_job_id(kPlace);
  const std::string line = config::message_to_json(entry, -1) + "\n";
  const std::string key = "\"job_id\":\"";
  const size_t at = line.find(key + kPlace + "\"") + key.size();
  std::string lines;
  lines.reserve(job_ids.size() * (line.size() + 40));
  for (const std::string& id : job_ids) {
    absl::StrAppend(&lines, line.substr(0, at), id, line.substr(at + 1));
  }
  append_lines(std::move(lines));
}

void AuditLog::append_lines(std::string lines) {
  const std::lock_guard lock(mutex_);
  pending_.push_back(std::move(lines));
  const Status flushed = flush_locked();
  if (flushed.ok()) return;
  probe_.audit_failed();
  log_error("audit: %s (the lines of %d calls wait)", std::string(flushed.message()),
            static_cast<int>(pending_.size()));
}

Result<std::optional<AuditLog::Page>> AuditLog::list(
    const std::map<std::string, std::string>& wanted, const std::optional<Cursor>& after,
    int size) {
  const FileDescriptor fd(::open(file_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat info {};
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) {
    return store_failed(errno_status(errno, file_.string()));
  }
  if (after && (after->inode != info.st_ino || after->end > info.st_size || after->end < 0)) {
    return std::nullopt;
  }
  const int64_t end = after ? after->end : info.st_size;
  BackwardLines lines(fd.get(), end);
  Page page;
  std::string line;
  while (true) {
    const int64_t before = lines.begin();
    if (before > 0 && (static_cast<int>(page.entries.size()) == size || end - before > kLookedAt)) {
      page.next = Cursor{info.st_ino, before};
      break;
    }
    const Result<bool> more = lines.next(line);
    if (!more.ok()) return store_failed(more.status());
    if (!*more) break;
    v1::AuditEntry entry;
    google::protobuf::util::JsonParseOptions options;
    options.ignore_unknown_fields = true;
    // A torn line is passed over.
    if (!google::protobuf::util::JsonStringToMessage(line, &entry, options).ok()) continue;
    if (matches(entry, wanted)) page.entries.push_back(std::move(entry));
  }
  return page;
}

}  // namespace emoe::server
