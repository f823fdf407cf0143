#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "server/job/admission.h"

namespace emoe::server {

// What admission finds out about a job as it found it out about another one: nearly all of it is that of the
// other, so its bytes are shared by all such jobs.
struct Recalled {
  v1::JobSpec resolved;  // names, and what the queue asks for; the rest is in `common`
  Findings found;        // seconds and bytes of the plan
  std::vector<Warning> warnings;
  // A v1::Job with resolved_spec, data and plan. With the fields above behind it, it is what admit() gives.
  std::shared_ptr<const std::string> common;
};

// admit() for many jobs on the same model and data: reading a tokenizer and the tokens of the first rows
// takes longer than all else of a submit. What it found is used again for a spec that is equal but for
// name, labels and resources.priority, while every file and folder that the spec names is the same by
// path, size, inode and times, and for no longer than `lifetime`, because free disk space and the
// times learned from finished runs are no files; where many calls come, one of them reads anew and the
// others go on with what is there meanwhile. Files are looked at up to ten times a second. Files that were changed just now are read each time:
// another change might not show in their times. Specs with problems are not remembered. Thread-safe;
// `clock` outlives it.
class AdmissionCache {
 public:
  AdmissionCache(AdmissionConfig config, const Clock& clock,
                 std::chrono::seconds lifetime = std::chrono::seconds(10));

  [[nodiscard]] const AdmissionConfig& config() const { return config_; }
  // As admit(), with these folders in place of the configuration's.
  [[nodiscard]] v1::JobSpec admit(const v1::JobSpec& spec,
                                  const std::vector<std::filesystem::path>& allowed_roots,
                                  Diagnostics& diagnostics, Findings* found);
  // The same where it can be told at once, without a look at any file, of a job that fits and that the queue
  // need not know more of than a QueuedRow says. Nothing else: admit() it.
  [[nodiscard]] std::optional<Recalled> recall(
      const v1::JobSpec& spec, const std::vector<std::filesystem::path>& allowed_roots);
  // Of the calls of both, those that read no file.
  [[nodiscard]] int64_t hits() const;

 private:
  struct Entry {
    std::string files;  // what they were
    SteadyTime made;
    SteadyTime looked_at;     // the files
    bool being_made = false;  // anew, by one of the calls
    v1::JobSpec given;
    v1::JobSpec resolved;
    std::vector<Warning> warnings;
    Findings found;
    std::optional<Recalled> recalled;  // nothing: each job is one for admit()
  };
  // Null: the caller is to make it. `files` is null where nobody has looked at them for this call.
  [[nodiscard]] std::shared_ptr<const Entry> entry_of(const std::string& key,
                                                      const std::string* files);
  void keep(const std::string& key, std::shared_ptr<Entry> entry);

  const AdmissionConfig config_;
  const Clock& clock_;
  const std::chrono::seconds lifetime_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;
  int64_t hits_ = 0;
};

}  // namespace emoe::server
