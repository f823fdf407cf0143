#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/status.h"
#include "server/security/file_stamp.h"

namespace emoe::server {

// What some files hold, read again when one of them has changed. A change that cannot be used leaves the old
// content in force; it is told once. Thread-safe.
template <typename Content>
class RereadFiles {
 public:
  using Pointer = std::shared_ptr<const Content>;
  struct Calls {
    std::function<Result<Pointer>()> read;
    // Of content that differs from that in force, whether it may take its place; empty: it may.
    std::function<Status(const Content&)> check = {};
    std::function<void(const Content&)>
        taken;  // a change, or the end of one that could not be used
    std::function<void(const Status&)> refused;  // a change
  };

  RereadFiles(std::vector<std::filesystem::path> files, Calls calls)
      : files_(std::move(files)), calls_(std::move(calls)) {}

  // The first time; before current().
  [[nodiscard]] Status open() {
    const std::lock_guard lock(mutex_);
    const Stamps now = stamps();
    EMOE_ASSIGN_OR_RETURN(content_, calls_.read());
    remember(now);
    return ok_status();
  }

  [[nodiscard]] Pointer current() {
    const std::lock_guard lock(mutex_);
    const Stamps now = stamps();
    if (seen_ == now) return content_;
    Result<Pointer> fresh = calls_.read();
    if (fresh.ok() && calls_.check && !(**fresh == *content_)) {
      if (Status usable = calls_.check(**fresh); !usable.ok()) fresh = std::move(usable);
    }
    remember(now);
    if (fresh.ok()) {
      const bool news = complained_ || !(**fresh == *content_);
      complained_.reset();
      content_ = *std::move(fresh);
      if (news) calls_.taken(*content_);
    } else if (complained_ != now) {
      complained_ = now;
      calls_.refused(fresh.status());
    }
    return content_;
  }

 private:
  using Stamps = std::vector<FileStamp>;
  [[nodiscard]] Stamps stamps() const {
    Stamps all;
    for (const std::filesystem::path& file : files_) all.push_back(stamp_of(file));
    return all;
  }
  // What changed while it was read, or a moment ago, is read again the next time.
  void remember(const Stamps& now) {
    seen_.reset();
    const auto settled = [](const FileStamp& stamp) { return stamp.is_settled(); };
    if (std::ranges::all_of(now, settled) && stamps() == now) seen_ = now;
  }

  const std::vector<std::filesystem::path> files_;
  const Calls calls_;
  std::mutex mutex_;
  Pointer content_;
  std::optional<Stamps> seen_;        // of what was read, or tried; nothing: to be read again
  std::optional<Stamps> complained_;  // of which it was told that they cannot be used
};

}  // namespace emoe::server
