#include "worker/run/output_folder.h"

#include <algorithm>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

std::string name_of(const OutputFolder& out) {
  return absl::StrCat("--out ", out.root.string());
}

// "job.yaml.tmp.4711": what write_file_atomically leaves when it is killed.
bool is_leftover(const fs::path& path) {
  const std::string number = path.extension().string();
  return path.stem().extension() == ".tmp" && number.size() > 1 &&
         std::all_of(number.begin() + 1, number.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::vector<fs::path> entries_of(const OutputFolder& out) {
  std::error_code error;
  std::vector<fs::path> paths;
  for (fs::directory_iterator entry(out.root, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    paths.push_back(entry->path());
  }
  if (error) {
    throw JobError(ExitCode::io, absl::StrCat(name_of(out), ": cannot be read: ", error.message()));
  }
  return paths;
}

// Empty, or with nothing in it but what another rank of this launch, or a claim that was killed,
// has made.
bool is_unclaimed(const OutputFolder& out, const std::vector<fs::path>& paths) {
  return std::all_of(paths.begin(), paths.end(), [&](const fs::path& path) {
    return path == out.cache() || path == out.lock() || is_leftover(path);
  });
}

[[noreturn]] void refuse(const OutputFolder& out, const std::string& difference) {
  throw JobError(ExitCode::configuration,
                 absl::StrCat(name_of(out), ": belongs to another job (", difference,
                              "); name another folder, or remove this one"));
}

void check_same_content(const OutputFolder& out, const JobPlan& plan, const ContentHashes& stored,
                        ContentHasher& hasher) {
  if (stored.tokenizer.empty()) return;  // that run ended before it had read its files
  const ContentHashes found = input_or_throw(hash_inputs(plan, hasher));
  for (const ContentField& content : kContentFields) {
    const std::string& before = stored.*content.hash;
    const std::string& now = found.*content.hash;
    const bool compared =
        content.source != nullptr && !(content.may_be_absent && (before.empty() || now.empty()));
    if (compared && before != now) refuse(out, absl::StrCat(content.source, " has other content"));
  }
}

void remove_leftovers(const OutputFolder& out) {
  for (const fs::path& path : entries_of(out)) {
    std::error_code ignored;
    if (is_leftover(path)) fs::remove(path, ignored);
  }
}

std::optional<FileLock> take_lock(const OutputFolder& out, std::chrono::milliseconds patience) {
  constexpr std::chrono::milliseconds kPause{100};
  for (auto left = patience;; left -= kPause) {
    Result<std::optional<FileLock>> lock = FileLock::try_acquire(out.lock());
    if (!lock.ok()) {
      warn_without_locks(lock.status(), "nothing keeps a second run out of the output folder");
      return std::nullopt;
    }
    if (*lock) return std::move(*lock);
    if (left <= kPause.zero()) {
      throw JobError(ExitCode::configuration,
                     name_of(out) + ": in use by another run; wait for its end, or stop it");
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

void check_output_folder(const OutputFolder& out, const JobPlan& plan, ContentHasher& hasher) {
  std::error_code error;
  const fs::file_status status = fs::status(out.root, error);
  if (status.type() == fs::file_type::not_found) return;
  if (status.type() != fs::file_type::directory) {
    throw JobError(ExitCode::configuration, name_of(out) + ": exists and is not a folder");
  }
  // One look at it: rank 0 of this launch may be claiming it at this moment.
  const std::vector<fs::path> paths = entries_of(out);
  if (std::find(paths.begin(), paths.end(), out.job_yaml()) == paths.end()) {
    if (is_unclaimed(out, paths)) return;
    throw JobError(ExitCode::configuration,
                   name_of(out) +
                       ": exists and is not the output folder of a run; name another one, or "
                       "empty it");
  }
  const StoredJob stored = read_stored_job(out.job_yaml());
  if (stored.identity != plan.identity) {
    refuse(out, absl::StrJoin(changed_keys(stored, plan), "; "));
  }
  check_same_content(out, plan, stored.hashes, hasher);
}

std::optional<FileLock> claim_output_folder(const OutputFolder& out, const JobPlan& plan,
                                            ContentHasher& hasher,
                                            std::chrono::milliseconds patience) {
  check_output_folder(out, plan, hasher);
  output_or_throw(emoe::create_directories(out.root));
  if (::access(out.root.c_str(), W_OK) != 0) {
    throw JobError(ExitCode::io, name_of(out) + ": cannot be written to");
  }
  std::optional<FileLock> lock = take_lock(out, patience);
  check_output_folder(out, plan, hasher);  // another run may have claimed it meanwhile
  remove_leftovers(out);
  // Claimed from here on; the hashes follow when the files have been read.
  if (!fs::exists(out.job_yaml())) write_job_yaml(out, plan, {});
  return lock;
}

void write_job_yaml(const OutputFolder& out, const JobPlan& plan, const ContentHashes& hashes) {
  output_or_throw(write_file_atomically(out.job_yaml(), yaml_with_hashes(plan, hashes)));
}

void warn_without_locks(const Status& status, const std::string& consequence) {
  if (!absl::IsUnavailable(status) && !absl::IsUnimplemented(status)) output_or_throw(status);
  log_warning("%s; %s", std::string(status.message()), consequence);
}

}  // namespace emoe::worker
