#include "server/job/admission_cache.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>

#include <absl/strings/str_cat.h>
#include <google/protobuf/arena.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <sys/stat.h>

#include "config/config.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

constexpr size_t kEntries = 64;
constexpr int kMostFiles = 1000;  // of one spec; of more it is not worth while
// Between looks at the files of an entry that many calls use.
constexpr std::chrono::milliseconds kLookAgain{100};
// A file system's times may be that coarse.
constexpr std::chrono::seconds kJustNow{2};

// What shows whether files are the same.
class Fingerprint {
 public:
  explicit Fingerprint(WallTime now) : now_(now) {}

  void add(const fs::path& path) {
    std::error_code error;
    if (!add_entry(path)) return;
    if (!fs::is_directory(path, error)) {
      // What lies beside a tokenizer is read with it.
      if (path.extension() == ".model") add_folder(path.parent_path());
      return;
    }
    add_folder(path);
  }
  // Nothing: they cannot be told apart from what they may become.
  [[nodiscard]] std::optional<std::string> text() const {
    return usable_ ? std::optional(text_) : std::nullopt;
  }

 private:
  void add_folder(const fs::path& folder) {
    std::error_code error;
    std::vector<fs::path> paths;
    for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
      if (paths.size() > kMostFiles) break;
      paths.push_back(entry.path());
    }
    if (error || paths.size() > kMostFiles) usable_ = false;
    std::ranges::sort(paths);
    for (const fs::path& path : paths) (void)add_entry(path);
  }
  // Where a link leads is part of it.
  bool add_entry(const fs::path& path) {
    struct stat info {};
    struct stat link {};
    if (++files_ > kMostFiles || ::stat(path.c_str(), &info) != 0 ||
        ::lstat(path.c_str(), &link) != 0) {
      return usable_ = false;
    }
    for (const struct stat& each : {info, link}) {
      const auto changed = std::max(time_of(each.st_mtim), time_of(each.st_ctim));
      if (!S_ISDIR(each.st_mode) && now_ - changed < kJustNow) usable_ = false;
      absl::StrAppend(&text_, each.st_dev, ":", each.st_ino, ":", each.st_size, ":", each.st_mode,
                      ":", each.st_mtim.tv_sec, ".", each.st_mtim.tv_nsec, ":", each.st_ctim.tv_sec,
                      ".", each.st_ctim.tv_nsec, " ");
    }
    absl::StrAppend(&text_, path.string(), "\n");
    return true;
  }
  static WallTime time_of(const timespec& time) {
    return WallTime(std::chrono::duration_cast<WallTime::duration>(
        std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec)));
  }

  const WallTime now_;
  std::string text_;
  int files_ = 0;
  bool usable_ = true;
};

std::optional<std::string> files_of(const v1::JobSpec& spec, WallTime now) {
  Fingerprint fingerprint(now);
  v1::JobSpec copy = spec;
  config::change_paths(copy, [&](const std::string&, const std::string& path) {
    fingerprint.add(path);
    return path;
  });
  return fingerprint.text();
}

// The spec without what decides nothing but names and places, behind the folders that it may name.
std::string key_of(const v1::JobSpec& spec, const std::vector<fs::path>& allowed_roots) {
  // Of the tens of allocations of a spec each costs as much as its part of the bytes.
  std::array<char, 4096> memory;
  google::protobuf::ArenaOptions options;
  options.initial_block = memory.data();
  options.initial_block_size = memory.size();
  google::protobuf::Arena arena(options);
  auto& rest = *google::protobuf::Arena::CreateMessage<v1::JobSpec>(&arena);
  rest = spec;
  rest.clear_name();
  rest.clear_labels();
  if (rest.has_resources()) rest.mutable_resources()->clear_priority();
  if (rest.resources().ByteSizeLong() == 0) rest.clear_resources();
  std::string bytes;
  for (const fs::path& root : allowed_roots) absl::StrAppend(&bytes, root.string(), "\n");
  bytes.push_back('\0');
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    rest.SerializeToCodedStream(&coded);
  }
  return bytes;
}

bool is_name_or_place(const std::string& field) {
  return field == "name" || field == "resources.priority" || field.starts_with("labels");
}

bool same_names(const v1::JobSpec& a, const v1::JobSpec& b) {
  const auto& left = a.labels();
  const auto& right = b.labels();
  return a.name() == b.name() && a.has_name() == b.has_name() &&
         a.resources().has_priority() == b.resources().has_priority() &&
         a.resources().priority() == b.resources().priority() && left.size() == right.size() &&
         std::ranges::all_of(left, [&](const auto& label) {
           const auto found = right.find(label.first);
           return found != right.end() && found->second == label.second;
         });
}

std::optional<Recalled> recalled_of(const v1::JobSpec& resolved, const Diagnostics& diagnostics,
                                    const Findings& findings) {
  const v1::Parallel& parallel = resolved.parallel();
  // Of ranks that come in groups the queue keeps the whole job in memory, see is_resident().
  const bool in_groups = parallel.min_ranks() > 0 && parallel.tensor() > 1;
  if (in_groups || !check_fits(findings.plan).ok()) return std::nullopt;
  v1::Job common;
  v1::JobSpec& rest = *common.mutable_resolved_spec();
  rest = resolved;
  rest.clear_name();
  rest.clear_labels();
  rest.mutable_resources()->clear_priority();
  *common.mutable_data() = findings.data;
  *common.mutable_plan() = findings.plan;
  Recalled recalled{.warnings = diagnostics.warnings(),
                    .common = std::make_shared<std::string>(common.SerializeAsString())};
  v1::JobSpec& own = recalled.resolved;
  own.set_name(resolved.name());
  *own.mutable_labels() = resolved.labels();
  own.mutable_resources()->set_priority(resolved.resources().priority());
  own.mutable_resources()->set_device(resolved.resources().device());
  own.mutable_parallel()->set_ranks(parallel.ranks());
  own.mutable_parallel()->set_min_ranks(parallel.min_ranks());
  own.mutable_parallel()->set_tensor(parallel.tensor());
  own.mutable_train()->set_global_batch(resolved.train().global_batch());
  v1::Plan& plan = recalled.found.plan;
  if (findings.plan.has_time()) plan.mutable_time()->set_seconds(findings.plan.time().seconds());
  if (findings.plan.has_disk()) {
    plan.mutable_disk()->set_total_bytes(findings.plan.disk().total_bytes());
  }
  return recalled;
}

// Gives `resolved` the names of `spec`, which are checked as ever.
void rename(const v1::JobSpec& spec, v1::JobSpec& resolved, Diagnostics& diagnostics) {
  Diagnostics all;
  const v1::JobSpec checked = config::check(spec, {}, std::nullopt, all);
  for (const Violation& violation : all.violations()) {
    if (is_name_or_place(violation.field)) diagnostics.add(violation.field, violation.reason);
  }
  resolved.set_name(checked.name());
  *resolved.mutable_labels() = checked.labels();
  resolved.mutable_resources()->set_priority(checked.resources().priority());
}

}  // namespace

AdmissionCache::AdmissionCache(AdmissionConfig config, const Clock& clock,
                               std::chrono::seconds lifetime)
    : config_(std::move(config)), clock_(clock), lifetime_(lifetime) {}

int64_t AdmissionCache::hits() const {
  const std::lock_guard lock(mutex_);
  return hits_;
}

std::optional<Recalled> AdmissionCache::recall(const v1::JobSpec& spec,
                                               const std::vector<fs::path>& allowed_roots) {
  const auto known = entry_of(key_of(spec, allowed_roots), nullptr);
  if (known == nullptr || !known->recalled) return std::nullopt;
  Recalled recalled = *known->recalled;
  if (same_names(spec, known->given)) return recalled;
  Diagnostics problems;
  rename(spec, recalled.resolved, problems);
  return problems.empty() ? std::optional(std::move(recalled)) : std::nullopt;
}

v1::JobSpec AdmissionCache::admit(const v1::JobSpec& spec,
                                  const std::vector<fs::path>& allowed_roots,
                                  Diagnostics& diagnostics, Findings* found) {
  const std::string key = key_of(spec, allowed_roots);
  std::shared_ptr<const Entry> known = entry_of(key, nullptr);
  std::optional<std::string> files;
  if (known == nullptr) {
    // Before they are read: what changes meanwhile shows the next time.
    files = files_of(spec, clock_.wall_now());
    if (files) known = entry_of(key, &*files);
  }
  if (known != nullptr) {
    v1::JobSpec resolved = known->resolved;
    if (!same_names(spec, known->given)) rename(spec, resolved, diagnostics);
    for (const Warning& warning : known->warnings) diagnostics.warn(warning);
    if (found != nullptr) *found = known->found;
    return resolved;
  }
  Findings own;
  Findings& findings = found != nullptr ? *found : own;
  AdmissionConfig config = config_;
  config.allowed_roots = allowed_roots;
  v1::JobSpec resolved = server::admit(spec, config, diagnostics, &findings);
  if (!files || !diagnostics.empty()) {
    const std::lock_guard lock(mutex_);
    entries_.erase(key);
    return resolved;
  }
  const SteadyTime now = clock_.steady_now();
  keep(key,
       std::make_shared<Entry>(Entry{.files = *files,
                                     .made = now,
                                     .looked_at = now,
                                     .given = spec,
                                     .resolved = resolved,
                                     .warnings = diagnostics.warnings(),
                                     .found = findings,
                                     .recalled = recalled_of(resolved, diagnostics, findings)}));
  return resolved;
}

std::shared_ptr<const AdmissionCache::Entry> AdmissionCache::entry_of(const std::string& key,
                                                                      const std::string* files) {
  const SteadyTime now = clock_.steady_now();
  const std::lock_guard lock(mutex_);
  const auto known = entries_.find(key);
  if (known == entries_.end()) return nullptr;
  Entry& entry = *known->second;
  if (files == nullptr) {
    if (now - entry.looked_at > kLookAgain) return nullptr;
  } else if (entry.files != *files) {
    entries_.erase(known);
    return nullptr;
  }
  const auto age = now - entry.made;
  if (age > 2 * lifetime_ || (age > lifetime_ && !entry.being_made)) {
    // The one who is told to look at the files first comes back for this.
    if (files != nullptr) entry.being_made = true;
    return nullptr;
  }
  if (files != nullptr) entry.looked_at = now;
  ++hits_;
  return known->second;
}

void AdmissionCache::keep(const std::string& key, std::shared_ptr<Entry> entry) {
  const std::lock_guard lock(mutex_);
  if (entries_.size() >= kEntries && !entries_.contains(key)) {
    entries_.erase(
        std::ranges::min_element(entries_, {}, [](const auto& each) { return each.second->made; }));
  }
  entries_[key] = std::move(entry);
}

}  // namespace emoe::server
