#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include <sys/stat.h>

#include "base/status.h"
#include "worker/run/job_plan.h"

namespace emoe::worker {

// SHA-256 of the files a run reads, each file hashed once: hashing the weights of a 30B model takes
// minutes, and every rank and every attempt asks. The hashes are kept here and, after remember(),
// in `cache_dir`, by the file's path, size, times and inode. Not thread-safe.
class ContentHasher {
 public:
  // An empty `cache_dir`: only this object remembers. `on_work_done` as in sha256_of_file().
  explicit ContentHasher(
      std::filesystem::path cache_dir, std::function<void()> on_work_done = [] {})
      : cache_dir_(std::move(cache_dir)), on_work_done_(std::move(on_work_done)) {}

  // Reads the cache and never writes it.
  [[nodiscard]] Result<std::string> file(const std::filesystem::path& file);
  // One hash for what a model folder computes: config.json and every *.safetensors, by name and
  // content. Its first call is what check_model_unchanged() compares with.
  [[nodiscard]] Result<std::string> model(const std::filesystem::path& folder);

  // Writes the hashes made here into the cache; a failure is only logged.
  void remember();
  // ABORTED naming a file of model() whose size, time of change or inode is not what it was when
  // it was hashed.
  [[nodiscard]] Status check_model_unchanged() const;

 private:
  struct Known {
    struct stat stamp {};
    std::string hash;
    bool in_cache = false;
  };
  [[nodiscard]] std::filesystem::path entry_of(const std::filesystem::path& file) const;
  [[nodiscard]] std::string read_cache(const std::filesystem::path& file,
                                       const struct stat& stamp) const;

  std::filesystem::path cache_dir_;
  std::function<void()> on_work_done_;
  std::map<std::filesystem::path, Known> known_;
  std::map<std::filesystem::path, struct stat> model_files_;
};

// The hashes of all that a job reads, but for the program's. NOT_FOUND and other errors of the
// files as they come.
[[nodiscard]] Result<ContentHashes> hash_inputs(const JobPlan& plan, ContentHasher& hasher);

}  // namespace emoe::worker
